"""Contrapose: preference alignment of diffusion models without preference labels."""

__version__ = "0.1.0"
