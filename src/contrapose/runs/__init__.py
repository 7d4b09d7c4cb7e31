"""The run folder: its files, its weights, and what they were trained on."""
