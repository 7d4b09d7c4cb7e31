"""How a method takes the steps that it trains on: of a stochastic sampler, by the model as it stands, and judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from contrapose.core.group import Composition, OwnSteps, Pick
from contrapose.core.guidance import FreeScale
from contrapose.errors import UserError
from contrapose.ranges import Batch, Count, ShareAbove0, Steps, checked

if TYPE_CHECKING:
    from contrapose.core.links import Link
    from contrapose.core.objective import Objective

_BLANK = "blank"


@dataclass(frozen=True)
@checked
class StepSampling:
    """The model's own trajectories: how many, how often, and how their steps are taken."""

    prompts_per_draw: Batch = 8
    """Prompts of which trajectories are drawn together, every --sync-every steps."""
    sync_every: Count = 1
    """Optimiser steps after which new trajectories are drawn, by the model as it is then."""
    buffer: Batch = 256
    """Pairs of steps that are kept; the oldest leave."""
    rollout_steps: Steps = 20
    """Sampling steps of a trajectory, the last of which predicts the image."""
    rollout_guidance_scale: FreeScale = 5.0
    """Guidance scale of these trajectories, and of what is predicted for their steps in training; 1 is off."""
    rollout_size: str | None = None
    """Size of these trajectories' images as WIDTHxHEIGHT; the model's usual size when unset."""
    rollout_eta: ShareAbove0 = 1.0
    """How much of its noise a step draws anew: 1 is DDPM's step; near 0, DDIM's, there is no chance left."""

    def check_steps(self, first_fork: int = 0) -> None:
        """Raise `UserError` where a trajectory ends before a step that is compared."""
        num_taken = self.rollout_steps - 1
        if first_fork >= num_taken:
            raise UserError(
                f"rollout_steps {self.rollout_steps}: the last predicts the image, and of the {num_taken} before it "
                f"those after the first {first_fork} are compared, of which there is none; take more of them"
            )

    def objective(self, link: Link, *, one_state: bool) -> Objective:
        """Winner and loser as steps under this link, from one state or from a state of each.

        At beta = 1 a reward is the logarithm of a ratio of densities.
        """
        from contrapose.core.objective import GuidedRows, Objective, Side

        sides = (Side("winner"), Side("loser", state="winner" if one_state else None))
        guided = GuidedRows(self.rollout_guidance_scale, _BLANK) if self._is_guided else None
        return Objective(sides, link, beta=1.0, guided=guided)

    def composition(self, own_steps: OwnSteps) -> Composition:
        """Groups of such steps, which have noise and times of their own; with guidance, without a prompt too."""
        prompt = Pick("own", "prompt")
        prompts: Mapping[str, Pick] = {"prompt": prompt}
        dropout: Mapping[str, float] = {}
        if self._is_guided:
            prompts = {"prompt": prompt, _BLANK: prompt}
            dropout = {_BLANK: 1.0}
        return Composition(prompts=prompts, dropout=dropout, own_groups=own_steps, own_noise=True)

    def forks(self, num_candidates: int, first_fork: int, tie_margin: float) -> OwnSteps:
        """Trajectories with so many candidates for each step, from step `first_fork` on."""
        return self._steps(num_candidates, tie_margin, first_fork)

    def whole(self, tie_margin: float) -> OwnSteps:
        """Two trajectories of a prompt, whose steps are all as good as where they lead to."""
        return self._steps(2, tie_margin, None)

    def _steps(self, num_samples: int, tie_margin: float, first_fork: int | None) -> OwnSteps:
        return OwnSteps(
            num_samples=num_samples,
            num_prompts=self.prompts_per_draw,
            every=self.sync_every,
            buffer_size=self.buffer,
            num_steps=self.rollout_steps,
            guidance_scale=self.rollout_guidance_scale if self._is_guided else 1.0,
            size=self.rollout_size,
            tie_margin=tie_margin,
            eta=self.rollout_eta,
            first_fork=first_fork,
        )

    @property
    def _is_guided(self) -> bool:
        return self.rollout_guidance_scale not in (0, 1)
