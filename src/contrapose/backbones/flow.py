"""What the flow-matching families share: velocity, times in 0..1, and the scheduler's shift."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from contrapose.backbones.base import Backbone
from contrapose.backbones.times import FLOW_STEPS, flow_path, why_no_flow
from contrapose.core.path import Density, Path
from contrapose.errors import UserError


class FlowBackbone(Backbone):
    """A network that predicts the velocity eps - x0 of x_t = (1 - t) x0 + t eps."""

    space = "velocity"

    @classmethod
    def misfit(cls, scheduler: Any) -> str | None:
        return why_no_flow(scheduler)

    @property
    def latent_scale(self) -> tuple[Any, Any]:
        """With the autoencoder's shift, where it has one; the stock pipelines add it even where it is null."""
        config = self.pipe.vae.config
        shift = config.get("shift_factor", 0.0)
        if shift is None:
            raise UserError(
                f"{self.source.model}: shift_factor in vae/config.json is null, which its pipeline cannot add"
            )
        return shift, config.scaling_factor

    def noising(self, shape: Sequence[int] | None = None, density: Density | None = None, shifted: bool = True) -> Path:
        _, height, width = shape or self.latent_shape
        num_tokens = (height // self.patch) * (width // self.patch)
        return flow_path(self.pipe.scheduler, num_tokens, density or self.density, shifted)

    def timestep(self, t: Tensor, x_t: Tensor) -> Tensor:
        """Time as schedulers count it, 0..1000, in float32: half precision would round it."""
        return t.to(x_t.device, torch.float32) * FLOW_STEPS

    @classmethod
    def level_of(cls, time: float, config: Any) -> float:
        return time / FLOW_STEPS
