"""Where detectors find objects."""

from __future__ import annotations

from typing import NamedTuple


class Box(NamedTuple):
    """An object: its edges in pixels, and its score."""

    left: float
    top: float
    right: float
    bottom: float
    score: float
