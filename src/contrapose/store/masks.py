"""Masks of groups: where their samples differ, as images and over latents."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def in_latents(masks: Sequence[NDArray[np.floating]], height: int, width: int) -> Tensor:
    """The mean of each mask over a latent's pixels, [b, 1, h, w]."""
    stacked = torch.from_numpy(np.stack(masks)).float()[:, None]
    return torch.nn.functional.adaptive_avg_pool2d(stacked, (height, width))


def levels_in_latents(masks: Sequence[NDArray[np.floating]], unit: int) -> Tensor:
    """Masks of images of one size, from 0 to 255, as shards hold them: bytes [b, h, w] over latents 1/unit as large."""
    height, width = masks[0].shape
    return in_latents(masks, height // unit, width // unit)[:, 0].round().to(torch.uint8)
