"""Metrics of whole sets of images: how far they are from a reference, and how they differ among themselves."""
