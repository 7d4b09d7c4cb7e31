"""Pairs and prompts on disk."""
