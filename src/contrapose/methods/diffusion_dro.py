"""Diffusion-DRO (NeurIPS 2025, arXiv 2510.18353): inverse reinforcement learning; stage 1 of RealAlign (realalign.py).

    L = E max(0, m + [mse(n, theta(xr_t)) - mse(n, ref(xr_t))] - [mse(e_pol, theta(xp_t)) - mse(e_pol, ref(xp_t))])

xr_t is a noised real image and n its noise; xp_t a state on the trajectory of `lagged`, an earlier copy of the trainee,
under the same prompt and at the same t, and e_pol what that policy predicted there: real images are to be explained
better than the reference does it, by more than own samples are. Losers are not looked at.

Published as RealAlign's stage 1 with SD1.5: 20 steps of DPM-Solver++ without guidance on a grid that a random offset
shifts, the policy brought up to date every 16 steps, a trajectory for each comparison, used at one random state
(rollouts 256, states 1, buffer 256 at batch 256), learning rate 1e-4, 1600 steps, LoRA rank 4, 20 % of captions
dropped, an average of the weights (.9999). With SD3.5: `samples = renoised`, 10 steps, learning rate 2e-4, 3200 steps,
LoRA rank 32. Diffusion-DRO's own runs train the whole UNet of SD1.5 in bf16 at 1e-4, 1600 steps of 16 micro-steps, on
500 images of Pick-a-Pic, and bring the policy up to date every 16 micro-steps, which is `sync_every = 1`.

With `renoised`, the authors use the current trainee as the policy, which is `sync_every = 1`. Its error on its own
samples is then zero and has no gradient; the term only adds mse(ref, theta) to the hinge. The method becomes SFT on
real images that continues as long as the hinge is open. Synced less often, the term also pulls away from the older
policy.

Differs from the authors' code: each rollout of a batch is solved on its own grid, where both of theirs take row 0's
noise levels for every row while the network is told each row's own. SD3.5's rollouts are DPM-Solver++ on a shifted grid
too, where theirs are the stock Euler sampler. Groups draw from the latest `buffer` trajectories with replacement, where
theirs use each once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from contrapose.core.group import OWN, Composition, OnPolicy, Pick
from contrapose.core.links import Hinge
from contrapose.core.moving import Every
from contrapose.errors import UserError
from contrapose.methods.method import AlignmentMethod
from contrapose.ranges import Batch, Count, Positive, Steps, checked

if TYPE_CHECKING:
    from contrapose.core.objective import Objective


@dataclass(frozen=True)
@checked
class DiffusionDRO(AlignmentMethod):
    """Real images against the policy's own samples, under a hinge."""

    real_margin: Positive = 1e-3
    """How much better, in mean squared error, real images are to be explained than own samples."""
    samples: Literal["trajectory", "renoised"] = "trajectory"
    """Own samples: states on the policy's trajectory with the prediction made there, or its final images noised again
    and scored by it (the SD3.5 variant; with --sync-every 1 that term has no gradient and only gates the hinge)."""
    rollout_steps: Steps = 20
    """Sampling steps of a trajectory."""
    sync_every: Count = 16
    """Optimiser steps after which the policy that draws is the trainee again."""
    rollouts: Batch = 8
    """New trajectories for each optimiser step."""
    states: Steps = 4
    """States kept of each trajectory, at random; of one whose image is noised again it is that image alone."""
    buffer: Batch = 32
    """Trajectories that are kept; the oldest leave."""

    instead_of_swap: ClassVar[str | None] = "its second samples are the policy's own"

    def __post_init__(self) -> None:
        if self.states > self.rollout_steps:
            raise UserError(f"states {self.states}: a trajectory has {self.rollout_steps} (rollout_steps); keep fewer")
        if self.rollouts > self.buffer:
            raise UserError(
                f"rollouts {self.rollouts}: of each draw only {self.buffer} (buffer) would be kept; raise buffer, or "
                "draw fewer"
            )

    def objective(self) -> Objective:
        """beta = 2 makes a reward the plain difference of two errors."""
        from contrapose.core.objective import Objective, Row, Side

        # A state's noise is the lagged policy's prediction already; a renoised sample's is not, and is asked for.
        truth = {Row("lagged", OWN): 1.0} if self.samples == "renoised" else None
        sides = (Side("winner"), Side(OWN, truth=truth))
        return Objective(sides, Hinge(self.real_margin), beta=2.0, moving={"lagged": Every(self.sync_every)})

    def composition(self) -> Composition:
        on_policy = OnPolicy(
            num_steps=self.rollout_steps,
            num_states=self.states,
            num_rollouts=self.rollouts,
            buffer_size=self.buffer,
            renoised=self.samples == "renoised",
            policy="lagged",
        )
        return Composition({"winner": Pick("own", "winner")}, on_policy=on_policy)
