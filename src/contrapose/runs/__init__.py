"""The run folder: its files, its kept steps and their weights, and what they were trained on."""
