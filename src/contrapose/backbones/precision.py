"""The precision of networks where a setting leaves it open, and what a loaded one is called in settings."""

from __future__ import annotations

from pathlib import Path
from typing import cast, get_args

import torch

from contrapose import runfile
from contrapose.backbones.loading import DTYPES
from contrapose.backbones.settings import Precision
from contrapose.errors import UserError


def usual_precision(device: str | torch.device, begun: Path | None = None, section: str = "") -> Precision:
    """The precision of what is made on a device where a setting leaves it open.

    It is what the result was begun with, where its file of settings `begun` is there already and has a `precision` at
    the top or in a section; else bf16 on a GPU that has it, and fp32 elsewhere: on CPUs low precision is slower, and
    what they computed before stays the same to the last bit. Raises `UserError` for a broken file of settings.
    """
    settings: object = runfile.claimed(begun) if begun is not None and begun.exists() else {}
    if section and isinstance(settings, dict):
        settings = settings.get(section)
    recorded = settings.get("precision") if isinstance(settings, dict) else None
    for precision in get_args(Precision):
        if precision == recorded:
            return cast(Precision, precision)
    if torch.device(device).type != "cuda":
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"


def precision_of(dtype: torch.dtype) -> Precision:
    """What settings call a network's type; `UserError` for one that they have no name for."""
    for precision in get_args(Precision):
        if DTYPES[precision] == dtype:
            return cast(Precision, precision)
    raise UserError(f"a network in {dtype} has no --precision; load it in {', '.join(DTYPES)}")
