"""Contrapose: preference alignment of diffusion models without preference labels."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# The public names and where they live; imported when first used, since torch takes seconds.
_HOMES = {
    "load_backbone": "backbones.families",
    "guide": "backbones.guide",
    "nag": "backbones.nag",
    "Draw": "curate.draw",
    "draw_pairs": "curate.draw",
    "plan_pairs": "curate.draw",
    "Real": "curate.real",
    "make_pairs": "curate.real",
    "DDSPO": "methods",
    "DataDrivenDDSPO": "methods",
    "DiffusionDPO": "methods",
    "DiffusionDRO": "methods",
    "RealAlign": "methods",
    "SFT": "methods",
    "Sampling": "sample.images",
    "sample_images": "sample.images",
    "align": "train.align",
    "Optimisation": "train.settings",
    "Run": "train.settings",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"contrapose.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'contrapose' has no attribute {name!r}")
