"""Diffusion-LPO (Bai et al. 2025, arXiv 2510.01540): ranked lists of images, under the model of Plackett and Luce.

    L = -E sum_k log [ exp r_k / sum_{j not better than k} exp r_j ],   r = (beta / 2) [ mse_ref - mse_theta ]

Each image is to be preferred over all those that are ranked below it at once; mse is to the forward noise, which all
images of a list share. A list of two is a pair of Diffusion-DPO. Of each prompt's images the best `num_samples` are
taken, by their labels.

Published with SD1.5 and SDXL on lists of 2 to 8 images that were gathered from the pairs of Pick-a-Pic v1 by what is
transitive in them, as summaries of the paper say; of its other settings none is known to us, and beta is
Diffusion-DPO's.
Differs from the authors' code: neither it nor the whole paper has been read. All lists of a run have one length.
Equally good images are in each other's sums (Breslow's way with ties), where the paper's lists have none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from contrapose.core.choices import Space, Weighting
from contrapose.core.group import Composition, ListLength, ranks
from contrapose.core.measured import Measured
from contrapose.methods.method import RewardMethod
from contrapose.ranges import Positive, checked

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from contrapose.core.objective import Objective


@dataclass(frozen=True)
class PlackettLuce:
    """loss = sum_k log sum_{j: y_j <= y_k} exp(r_j - r_k), y the labels; sides may come in any order."""

    def __call__(self, measured: Measured) -> Float[Tensor, " b"]:
        labels = measured.labels
        rewards = measured.rewards
        # [b, k, j]: whether j is no better than k, which k itself is not either
        no_better = labels[:, None, :] <= labels[:, :, None]
        beaten = rewards[:, None, :].where(no_better, -math.inf).logsumexp(2)
        return (beaten - rewards).sum(1)


@dataclass(frozen=True)
@checked
class DiffusionLPO(RewardMethod):
    """Ranked lists: each image over all that are ranked below it."""

    beta: Positive = 5000.0
    num_samples: ListLength = 4
    """Images of a list: the best so many of each prompt, which has to have them."""
    weighting: Weighting = "none"
    space: Space | None = None

    def objective(self) -> Objective:
        from contrapose.core.objective import Objective, Side

        sides = tuple(Side(name) for name in ranks(self.num_samples))
        return Objective(sides, PlackettLuce(), self.beta, weighting=self.weighting, space=self.space)

    def composition(self) -> Composition:
        return Composition(ranks(self.num_samples))
