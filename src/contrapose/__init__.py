"""Contrapose: preference alignment of diffusion models without preference labels."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# The public names and where they live; imported when first used, since torch takes seconds.
_HOMES = {
    "load_backbone": "backbones.families.table",
    "guide": "guiding.guide",
    "nag": "guiding.nag",
    "Draw": "draw.pairs",
    "draw_pairs": "draw.pairs",
    "plan_pairs": "draw.pairs",
    "Real": "photographs.real",
    "make_pairs": "photographs.real",
    "DDSPO": "methods",
    "DataDrivenDDSPO": "methods",
    "DiffusionDPO": "methods",
    "DiffusionDRO": "methods",
    "RealAlign": "methods",
    "SFT": "methods",
    "Sampling": "guiding.images",
    "sample_images": "guiding.images",
    "align": "train.align",
    "Optimisation": "train.settings",
    "Run": "train.settings",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"contrapose.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'contrapose' has no attribute {name!r}")
