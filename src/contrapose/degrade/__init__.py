"""Prompts made worse."""
