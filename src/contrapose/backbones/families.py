"""Which backbone a model folder is; one line a family."""

from __future__ import annotations

from pathlib import Path

import torch

from contrapose.backbones.stable_diffusion import StableDiffusion


def load_backbone(
    model: str | Path,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    adapter: Path | None = None,
) -> StableDiffusion:
    """The backbone of a model folder or hub id, with an aligned run's weights on top.

    Raises `UserError` when the model is of no known family, or a part of it or of the run is missing.
    """
    return StableDiffusion(model, dtype, str(device), adapter)
