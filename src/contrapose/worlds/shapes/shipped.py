"""The shapes model that ships with Contrapose."""

from __future__ import annotations

from pathlib import Path


def shipped_model() -> Path:
    """Its folder."""
    return Path(__file__).parent / "model"
