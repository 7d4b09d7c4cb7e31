"""RankDPO (Karthik et al. 2024, arXiv 2410.18013): all pairs of a ranked list, weighted by what their order is worth.

    L = -E sum over pairs, i better than j, of  D_ij log sigmoid( r_i - r_j ),   r = (beta / 2) [ mse_ref - mse_theta ]
    D_ij = |g_i - g_j| |1 / log(1 + t_i) - 1 / log(1 + t_j)|,   g = 2^q - 1

q is an image's quality from 0 to 1, and t its rank, 1 the best, by the rewards r as they stand: D_ij is how much
discounted gain changes when i and j change places, so that mistakes at the top of the list count most. mse is to the
forward noise, which all images of a list share. `judge` names the stored scores of which q is the win rate inside the
list, q_i = mean over j of sigmoid(R_i - R_j); without it q are the labels. Of each prompt's images the best
`num_samples` are taken, by their labels.

Published with SDXL and SD3-Medium on Syn-Pic, lists of images of several models that reward models ranked; of its
settings none is known to us, and beta is Diffusion-DPO's.
Differs from the authors' code: written from the paper, as no code is released. Of equal rewards, as at the start, the
image that comes first in the list has the better rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from contrapose.core.choices import Space, Weighting
from contrapose.core.group import Composition, ListLength, ranks
from contrapose.core.links import log_sigmoid
from contrapose.core.measured import Measured
from contrapose.methods.method import RewardMethod
from contrapose.ranges import Positive, checked

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from contrapose.core.objective import Objective


@dataclass(frozen=True)
class DiscountedGain:
    """loss = -sum over i better than j of D_ij log sigmoid(r_i - r_j); D has no gradient."""

    judge: str | None

    def __call__(self, measured: Measured) -> Float[Tensor, " b"]:
        quality = self._quality(measured)
        gains = 2**quality - 1
        # stable: of equal rewards the first comes first; the ranks are the inverse of the order, from 1 on
        order = measured.rewards.detach().argsort(dim=1, descending=True, stable=True)
        ranked = order.argsort(dim=1) + 1
        discounts = 1 / (1 + ranked.to(gains.dtype)).log()
        worth = _differences(gains).abs() * _differences(discounts).abs()
        # [b, i, j]: each pair once, the better one as i; equals have no order
        worth = worth.where(_differences(quality) > 0, 0.0)
        return -(worth * log_sigmoid(_differences(measured.rewards))).sum((1, 2))

    def _quality(self, measured: Measured) -> Float[Tensor, "b n"]:
        if self.judge is None:
            return measured.labels
        wins = _differences(measured.scores[self.judge]).sigmoid()
        num = wins.shape[1]
        # of each row a half, won against itself, is none
        return (wins.sum(2) - 0.5) / (num - 1)


def _differences(values: Float[Tensor, "b n"]) -> Float[Tensor, "b n n"]:
    """values_i - values_j at [b, i, j]."""
    return values[:, :, None] - values[:, None, :]


@dataclass(frozen=True)
@checked
class RankDPO(RewardMethod):
    """Ranked lists: every pair of a list, weighted by how much of its discounted gain their order decides."""

    beta: Positive = 5000.0
    judge: str | None = None
    """Whose scores say how good an image is, by their name in the lists, higher being better; the labels when none."""
    num_samples: ListLength = 4
    """Images of a list: the best so many of each prompt, which has to have them."""
    weighting: Weighting = "none"
    space: Space | None = None

    instead_of_swap: ClassVar[str | None] = "its scores have a direction of their own; use diffusion-lpo --swap"

    def objective(self) -> Objective:
        from contrapose.core.objective import Objective, Side

        sides = tuple(Side(name) for name in ranks(self.num_samples))
        link = DiscountedGain(self.judge)
        return Objective(sides, link, self.beta, weighting=self.weighting, space=self.space)

    def composition(self) -> Composition:
        return Composition(ranks(self.num_samples), judge=self.judge)
