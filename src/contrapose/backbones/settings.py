"""How a model is read, beyond its name; whatever has a model among its settings holds these."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from contrapose.ranges import Tokens, checked

Precision = Literal["fp32", "fp16", "bf16"]
"""Bits of a network's numbers: 32, or 16 in either split between exponent and fraction."""


@dataclass(frozen=True, kw_only=True)
@checked
class Loading:
    """Which of a model's weights are read, how much text, and how the frozen network is kept."""

    variant: str | None = None
    """Which of several copies of the weights is read, such as fp16; the plain one when unset."""
    text_length: Tokens | None = None
    """Tokens that the largest text encoder reads, where that is not CLIP; its usual number when unset."""
    quantize: Literal["none", "nf4", "int8", "torchao-int8"] = "none"
    """Precision of the frozen network's weights: nf4 and int8 need bitsandbytes, torchao-int8 needs torchao."""
