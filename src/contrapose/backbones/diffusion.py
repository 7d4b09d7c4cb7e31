"""What the families on a discrete noise schedule share: betas from the scheduler, and its prediction type."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from contrapose.backbones.base import Backbone
from contrapose.backbones.times import diffusion_path, diffusion_space, why_no_diffusion
from contrapose.core.path import Density, Path

NUM_STEPS = 1000  # of every published model of these families


class DiffusionBackbone(Backbone):
    """A network that predicts noise, or what the scheduler's prediction type says, at whole steps."""

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        self.space = diffusion_space(self.pipe.scheduler)

    @classmethod
    def misfit(cls, scheduler: Any) -> str | None:
        return why_no_diffusion(scheduler)

    def noising(self, shape: Sequence[int] | None = None, density: Density | None = None, shifted: bool = True) -> Path:
        return diffusion_path(self.pipe.scheduler, density or self.density)

    @classmethod
    def level_of(cls, time: float, config: Any) -> float:
        return time / (NUM_STEPS - 1)
