"""Photographs to pairs."""
