"""CRD (Zhu et al. 2026, arXiv 2603.14128): rewards inside a group are to differ as its advantages do.

    L = E (limit / beta) mean_i ( beta (r_i - mean r) - (q_i - mean q) )^2 + pull mean_i p_i mse(theta, ref)_i
    r = mse_old / |residual_old| - mse_theta / |residual_theta|,   q = (1 + A / limit) / 2,   mse to the forward noise

A is how much better than its group's mean a judge scores an image, in deviations. Inside of a group the unknown
constant of KL-regularised rewards cancels, so that r can be fitted to the judge's reward. |.| is a mean of absolute
values and has no gradient. p_i goes with q_i, from 1e-4 / pull at 0 to 1: the best images are held nearest to the
reference. Samples are drawn by a policy of their own, `sampler`, so that r is not against what drew them.

Published with SD3.5-Medium at 512 pixels for rendered words, drawn by 10 steps without guidance: beta 1, limit 5, pull
.1, 24 images of each of 48 prompts, two steps a draw, LoRA rank 32, learning rate 3e-4, weight decay 1e-4; `sampler`
keeps .0075 more at each step after 75, at most .999; the old policy .25 and .005 more at each step, at most .999.
Differs from the authors' code: theirs has not been read, and this is written from the paper's abstract and from the
settings and the formula of Flow-Factory, which follows it. There the reference that pulls is guided, at a scale of 4.5;
here it is not. |.| is sqrt(2 / pi) times the root of mse, as in nft.py. The old policy's share begins at 0. Deviations
are those of a group, where theirs are of all images of a step; so are time and noise, where there each image has a
noise of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from contrapose.core.choices import Space, Weighting
from contrapose.core.group import Composition
from contrapose.core.measured import Measured
from contrapose.core.moving import Average
from contrapose.errors import UserError
from contrapose.methods.judged_groups import REFERENCE, JudgedGroups, JudgedMethod, OldPolicy
from contrapose.methods.nft import by_size
from contrapose.ranges import AtLeast0, CountOrNone, Positive, ShareBelow1, checked

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from contrapose.core.objective import Objective

_SAMPLER = "sampler"
_LEAST_PULL = 1e-4


@dataclass(frozen=True)
class CentredReward:
    """loss = (limit / beta) mean (beta (r - mean r) - (q - mean q))^2 + pull mean of p x drift."""

    groups: JudgedGroups
    beta: float
    pull: float

    def __call__(self, measured: Measured) -> Float[Tensor, " b"]:
        assert measured.R is not None, "the old policy is the reference"
        rewards = by_size(measured.R) - by_size(measured.T)
        good = self.groups.shares(measured)
        differences = self.beta * (rewards - rewards.mean(1, keepdim=True)) - (good - good.mean(1, keepdim=True))
        # at least _LEAST_PULL where a sample is the worst, and the whole pull where it is the best
        least = min(_LEAST_PULL, self.pull)
        pulls = least + good * (self.pull - least)
        drift = pulls * measured.drift_from[REFERENCE]
        return self.groups.advantage_limit / self.beta * differences.square().mean(1) + drift.mean(1)


@dataclass(frozen=True)
@checked
class CRD(JudgedMethod):
    """A prompt's own samples, whose rewards are fitted to their advantages inside of the group."""

    beta: Positive = 1.0
    """What rewards are multiplied by before they are fitted, in a unit of its own: errors are over their size here."""
    groups: JudgedGroups = field(default_factory=JudgedGroups)
    pull: AtLeast0 = 0.1
    """Weight of the squared distance from the reference for the best sample; for the worst it is 1e-4."""
    old: OldPolicy = field(default_factory=lambda: OldPolicy(0.999, 0.005))
    """How the policy that rewards are against follows."""
    sampler_decay: ShareBelow1 = 0.999
    """What the policy that draws, an average of the trainee, keeps of its own at each step, at the most; with --stored
    there is none."""
    sampler_growth: AtLeast0 = 0.0075
    """By how much that share grows at each step."""
    sampler_delay: CountOrNone = 75
    """Steps in which the trainee of the step before draws, until the share begins to grow."""
    weighting: Weighting = "none"
    space: Space | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        of_sampler = ("sampler_decay", "sampler_growth", "sampler_delay")
        unused = [name for name in of_sampler if getattr(self, name) != getattr(type(self), name)]
        if self.groups.stored and unused:
            raise UserError(
                f"{', '.join(unused)}: unused with stored groups, as none are drawn; leave one of the two out"
            )

    def objective(self) -> Objective:
        link = CentredReward(self.groups, self.beta, self.pull)
        sampler = Average(self.sampler_decay, self.sampler_growth, self.sampler_delay)
        drawing = {} if self.groups.stored else {_SAMPLER: sampler}
        return self.groups.objective(link, self.old, self.weighting, self.space, **drawing)

    def composition(self) -> Composition:
        return self.groups.composition(_SAMPLER)
