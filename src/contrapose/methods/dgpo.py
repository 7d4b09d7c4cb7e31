"""DGPO (Luo et al., ICLR 2026, arXiv 2510.08425): a group of own samples preferred by its advantages, all at once.

    L = -E (1 / beta) log sigmoid( (2 / G) sum_i A_i r_i ) + pull mse(theta, ref)
    r = (beta / 2) [ mse_ref - mse_theta ],   mse to the forward noise

A_i is how much better than its group's mean a judge scores image i, in deviations; all G images of a prompt share
their noise. An image whose mse has gone the way that its A asks for, so far that exp(mse_old - mse_theta) has left 1 by
more than `ratio_clip`, has no gradient until the old policy, an average of theta, has followed. A pair is a group of
two, with A = 1 and -1.

The old policy draws the groups that are trained on, or with `stored` they are a folder's.

Published with SD3.5-Medium at 512 pixels, drawn by 10 steps: LoRA rank 64, learning rate 3e-4, weight decay 1e-4, an
average of the weights (.9 every 8 steps), 24 images of each of 24 prompts, 16 of each of 8 in the released
configurations, each group at four times in one step. With a guidance of 4.5: beta 100, pull .02, clip .01. Without
guidance, rewards against the old policy (`against = old`): beta 2000, pull .001, clip .001.
Differs from the authors' code: their loss is another number of the same gradient, as the sigmoid is a weight there and
no gradient flows through it. Theirs draws by the trainee itself in the first 500 steps. Deviations are those of a
group, where some of their configurations take all images'. Times are the run's own, where theirs are four of the
sampler's noisier ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from contrapose.core.choices import Space, Weighting
from contrapose.core.links import log_sigmoid
from contrapose.core.measured import Measured
from contrapose.methods.judged_groups import REFERENCE, JudgedGroups, JudgedMethod, OldPolicy
from contrapose.ranges import AtLeast0, Positive, checked

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from contrapose.core.objective import Objective


@dataclass(frozen=True)
class GroupSigmoid:
    """loss = -(1 / beta) log sigmoid((2 / n) sum_i A_i r_i) + pull mean drift, of r that are not gone too far."""

    groups: JudgedGroups
    beta: float
    pull: float
    ratio_clip: float
    old: str

    def __call__(self, measured: Measured) -> Float[Tensor, " b"]:
        advantages = self.groups.advantages(measured)
        fixed = measured.rewards.detach()
        ratio = (measured.errors_of[self.old] - measured.T.detach()).exp()
        gone_up = (advantages > 0) & (ratio > 1 + self.ratio_clip)
        gone_down = (advantages <= 0) & (ratio < 1 - self.ratio_clip)
        # the same numbers, without gradient where a sample has gone far enough
        rewards = fixed.where(gone_up | gone_down, measured.rewards)
        loss = -log_sigmoid(2 * (advantages * rewards).mean(1)) / self.beta
        return loss + self.pull * measured.drift_from[REFERENCE].mean(1)


@dataclass(frozen=True)
@checked
class DGPO(JudgedMethod):
    """A prompt's own samples as one preference, each by its advantage over the others."""

    beta: Positive = 100.0
    """Strength of the pull to the policy that rewards are against, in the unit of Diffusion-DPO's code (half the
    mean-per-element error)."""
    groups: JudgedGroups = field(default_factory=JudgedGroups)
    pull: AtLeast0 = 0.02
    ratio_clip: Positive = 0.01
    """How far the ratio to the old policy may leave 1 before an image has no more gradient."""
    against: Literal["reference", "old"] = "reference"
    """Whether rewards are against the policy that the run begins with, or against the old one."""
    old: OldPolicy = field(default_factory=OldPolicy)
    weighting: Weighting = "none"
    space: Space | None = None

    def objective(self) -> Objective:
        from contrapose.core.objective import Objective

        old = self.old.policy
        return Objective(
            self.groups.sides(),
            GroupSigmoid(self.groups, self.beta, self.pull, self.ratio_clip, old),
            self.beta,
            reference=old if self.against == "old" else REFERENCE,
            anchors=tuple(dict.fromkeys((REFERENCE, old))),
            weighting=self.weighting,
            space=self.space,
            moving=self.old.moving,
        )
