"""RankDPO (Karthik et al. 2024, arXiv 2410.18013): all pairs of a ranked list, weighted by what their order is worth.

    L = -E sum over pairs, i better than j, of  D_ij log sigmoid( r_i - r_j ),   r = (beta / 2) [ mse_ref - mse_theta ]
    D_ij = |g_i - g_j| |1 / log(1 + t_i) - 1 / log(1 + t_j)|,   g = 2^q - 1

q is an image's quality from 0 to 1, and t its rank by quality, 1 the best (Eq. 6 and 7): D_ij is how much discounted
gain changes when i and j change places, so that mistakes at the top of the list count most. mse is to the forward
noise, which all images of a list share. Without `judge` q are the labels, which for a ranking by one judge are the
paper's: the share of the others that an image wins against. `judge` names stored scores of which q is the win rate
inside the list instead, q_i = mean over j of sigmoid(R_i - R_j), so that narrow wins count less. Of each prompt's
images the best `num_samples` are taken, by their labels.

Published with SDXL and SD3-Medium: batch 1024, 400 steps, lists of four images of 58,000 prompts of Pick-a-Pic v2, by
SDXL, SD3-Medium, PixArt-Sigma and Stable Cascade, q the share of wins by HPSv2.1, MPS, PickScore, VQAScore and
ImageReward. Neither beta nor the learning rate is in the preprint; beta is Diffusion-DPO's.
Differs from the authors' code: written from the preprint, as no code is released. Theirs draws noise for each image of
a list, and averages wins over five judges. Equally good images share the better rank.
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
        ranked = 1 + (_differences(quality) < 0).sum(2)
        discounts = 1 / (1 + ranked.to(gains.dtype)).log()
        # of one sign: what is better has the larger gain and the larger discount
        worth = _differences(gains) * _differences(discounts)
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
