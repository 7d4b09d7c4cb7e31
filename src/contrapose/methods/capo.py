"""CaPO (Lee et al., CVPR 2025, arXiv 2502.02588): a pair's rewards are to differ as much as its images' scores do.

    L = E ( [ s_w - s_l ] - [ r_w - r_l ] )^2,   r = (beta / 2) [ mse_ref - mse_theta ],   mse to the forward noise

s is a calibrated score from 0 to 1: the expected win rate of an image against what the policy draws for its prompt, as
a reward model sees it, s_i = mean over j of sigmoid(R_i - R_j). `judge` names the stored scores that are such rates.
Without it the labels take their place: a decided pair is to differ by 1, as with Diffusion-DPO's `--link ipo --margin
1`, a tie by nothing, and a pair whose label is a share p by 2 p - 1.

Published with SDXL and SD3-Medium on 100,000 prompts of DiffusionDB with 16 images each, scored by MPS, VQAScore and
VILA, pairs drawn from the upper and the lower Pareto front of the scores; beta and learning rate are not known to us,
and beta is Diffusion-DPO's.
Differs from the authors' code: none is released, and this is written from their page. The choice of pairs is that of
`contrapose pairs label --combine pareto`, which takes one pair of each prompt's images and stores their mean win rates
(`judge = win_rate`). Of the loss weight by noise level, sigmoid(1.5 - log SNR), the nearest is `linear`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from contrapose.core.choices import Space, Weighting
from contrapose.core.group import Composition
from contrapose.core.links import pair_margin
from contrapose.core.measured import Measured
from contrapose.methods.method import RewardMethod
from contrapose.ranges import Positive, checked

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from contrapose.core.objective import Objective


@dataclass(frozen=True)
class ScoreMatch:
    """loss = ((s_w - s_l) - (r_w - r_l))^2, s a judge's scores, or the labels where none is named."""

    judge: str | None

    def __call__(self, measured: Measured) -> Float[Tensor, " b"]:
        s = measured.labels if self.judge is None else measured.scores[self.judge]
        return (s[:, 0] - s[:, 1] - pair_margin(measured)).square()


@dataclass(frozen=True)
@checked
class CaPO(RewardMethod):
    """Rewards that differ as much as a pair's scores do: a regression instead of a classification."""

    beta: Positive = 5000.0
    judge: str | None = None
    """Whose scores are to be matched, by their name in the pairs: win rates from 0 to 1; the labels when none."""
    weighting: Weighting = "none"
    space: Space | None = None

    instead_of_swap: ClassVar[str | None] = "scores have a direction of their own; use diffusion-dpo --link ipo --swap"

    def objective(self) -> Objective:
        from contrapose.core.objective import Objective, Side

        sides = (Side("winner"), Side("loser"))
        return Objective(sides, ScoreMatch(self.judge), self.beta, weighting=self.weighting, space=self.space)

    def composition(self) -> Composition:
        return Composition(judge=self.judge)
