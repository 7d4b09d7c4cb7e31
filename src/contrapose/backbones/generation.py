"""What one call of a stock sampler is given."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from contrapose.core.group import Condition


@dataclass(frozen=True, eq=False)
class Generation:
    """One call of the sampler: conditions, starting noise [b, c, h, w], one random stream an image, and how."""

    condition: Condition
    unconditional: Condition
    noise: Tensor
    streams: list[torch.Generator]
    steps: int
    guidance_scale: float
