"""How a method draws the groups that it trains on: n samples a prompt by the model as it stands, scored by judges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from contrapose.core.group import OwnGroups
from contrapose.core.guidance import FreeScale
from contrapose.errors import UserError
from contrapose.ranges import Batch, Count, Range, Steps, checked


@dataclass(frozen=True)
@checked
class OwnSamples:
    """The model's own samples: how many, how often, and how they are drawn."""

    samples_per_prompt: Annotated[int, Range(2, 1000, integer=True)] = 4
    """Samples drawn of each prompt, each from noise of its own."""
    prompts_per_draw: Batch = 32
    """Prompts of which samples are drawn together, every --sync-every steps."""
    sync_every: Count = 1
    """Optimiser steps after which new samples are drawn, by the model as it is then, or by the old
    policy or the sampler of a method that has one."""
    buffer: Batch = 32
    """Prompts whose samples are kept; the oldest leave."""
    rollout_steps: Steps | None = None
    """Sampling steps of these samples; what is usual for the model when unset."""
    rollout_guidance_scale: FreeScale = 1.0
    """Guidance scale of these samples, 1 is off; a network that is fed guidance (FLUX.1-dev) is then fed training's."""
    rollout_size: str | None = None
    """Size of these samples' images as WIDTHxHEIGHT; the model's usual size when unset."""

    def __post_init__(self) -> None:
        """Raise `UserError` where of a draw some prompts' samples would leave before any is trained on."""
        if self.prompts_per_draw > self.buffer:
            raise UserError(
                f"prompts_per_draw {self.prompts_per_draw}: of each draw only {self.buffer} (buffer) would be kept; "
                "raise buffer, or draw of fewer"
            )

    def groups(self, tie_margin: float | None = None, policy: str = "trainee") -> OwnGroups:
        """What a composition says of it; see `OwnGroups` for what groups are left out, and who draws."""
        return OwnGroups(
            num_samples=self.samples_per_prompt,
            num_prompts=self.prompts_per_draw,
            every=self.sync_every,
            buffer_size=self.buffer,
            num_steps=self.rollout_steps,
            guidance_scale=self.rollout_guidance_scale,
            size=self.rollout_size,
            tie_margin=tie_margin,
            policy=policy,
        )
