"""What the families on a discrete noise schedule share: betas from the scheduler, and its prediction type."""

from __future__ import annotations

from typing import Any

from contrapose.backbones.times import diffusion_path, diffusion_space, why_no_diffusion
from contrapose.core.choices import Density, Space
from contrapose.core.path import Path

NUM_STEPS = 1000  # of every published model of these families


class Diffusion:
    """A network that predicts noise, or what the scheduler's prediction type says, at whole steps."""

    def misfit(self, scheduler: Any) -> str | None:
        return why_no_diffusion(scheduler)

    def space(self, scheduler: Any) -> Space:
        return diffusion_space(scheduler)

    def path(self, scheduler: Any, num_tokens: int, density: Density, shifted: bool) -> Path:
        return diffusion_path(scheduler, density)


def level_of(time: float, config: Any) -> float:
    """The noise level of a step, the last being noise."""
    return time / (NUM_STEPS - 1)
