"""Prompts to pairs of the model's own samples."""
