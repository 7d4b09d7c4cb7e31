"""The loop, its data, its checkpoints and its diagnostics."""
