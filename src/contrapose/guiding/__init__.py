"""Preference as guidance around stock pipelines, and the images that are drawn under it."""
