"""Diffusion-DPO (Wallace et al. 2023, arXiv 2311.12908, eq. 14), and IPO and hinge on the same pairs.

    L = -E log sigmoid( -(beta / 2) [ (mse_w - mse_l)_theta - (mse_w - mse_l)_ref ] ),   mse to the forward noise

Published with SD1.5: beta 5000, batch 2048, 2000 steps, warm-up 500, effective learning rate 2.05e-5, 20 % of captions
dropped.
Differs from the authors' code: noise and time come from each pair's own seed. Latents are the autoencoder's mean, where
theirs are a fresh sample each time; images are mirrored once, by their seed (`--flip`), where theirs are mirrored at
random each time, winner and loser each by itself. A dropped caption is the family's no prompt, on SDXL zeros, where
theirs is the empty text.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from contrapose.core.choices import Space, Weighting
from contrapose.core.group import Composition
from contrapose.core.guards import PairGuard, Unguarded, guarded
from contrapose.core.links import PairLink, Sigmoid
from contrapose.methods.method import GuardedMethod
from contrapose.ranges import Positive, checked

if TYPE_CHECKING:
    from contrapose.core.objective import Objective


@dataclass(frozen=True)
@checked
class DiffusionDPO(GuardedMethod):
    """Winner over loser, both measured against the noise that was added."""

    beta: Positive = 5000.0
    link: PairLink = field(default_factory=Sigmoid)
    """How a comparison is scored: sigmoid (with label smoothing), ipo or hinge."""
    guard: PairGuard = field(default_factory=Unguarded)
    weighting: Weighting = "none"
    space: Space | None = None

    def objective(self) -> Objective:
        from contrapose.core.objective import Objective, Side

        sides = (Side("winner"), Side("loser"))
        link = guarded(self.link, self.guard)
        return Objective(sides, link, self.beta, weighting=self.weighting, space=self.space)

    def composition(self) -> Composition:
        return Composition()
