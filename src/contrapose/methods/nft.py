"""DiffusionNFT (Zheng et al. 2025, arXiv 2509.16117): a policy of good samples and one of bad ones.

    L = E (limit / b) [ q mse(y, v+) / |y - v+| + (1 - q) mse(y, v-) / |y - v-| ] + pull mse(theta, ref)
    v+ = b theta + (1 - b) old,   v- = (1 + b) old - b theta,   q = (1 + A / limit) / 2,   y the forward noise

A is how much better than its group's mean a judge scores an image, in deviations: the better it is, the more v+ is to
explain it, and else v-, which lies as far on the other side of the old policy, an average of theta. |.| is a mean of
absolute values and has no gradient. By T, R and D, the errors of theta and old and their distance,

    mse(y, v+) = b T + (1 - b) R - b (1 - b) D,   mse(y, v-) = -b T + (1 + b) R + b (1 + b) D

The old policy draws the groups that are trained on. With `stored` they are a folder's, and the old policy is to be the
one that drew them, which stays: `--old-decay None`.

Published with SD3.5-Medium at 512 pixels, drawn by 10 steps of a second-order ODE solver without guidance: b 1 (.1 for
OCR and for several rewards), limit 5, pull 1e-4, 24 images of each of 48 prompts a step, LoRA rank 32 (alpha 64),
learning rate 3e-4, weight decay 1e-4; the old policy keeps .001 more at each step, at most .5 (OCR: after 75 steps
.0075 more, at most .999), and draws.
Differs from the authors' code: |.| is sqrt(2 / pi) times the root of mse, which it is where residuals are normal; their
own mean is of the elements. Theirs measures the distance from ref in velocities and all else in x0, here all is in
`space`. Deviations are those of a group, where theirs are of all images of a step. Theirs asks at nearly all of the
sampler's times in each step, each image under a noise of its own; here the images of a group share a time of the run's
own and their noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from contrapose.core.choices import Space, Weighting
from contrapose.core.measured import Measured
from contrapose.methods.judged_groups import REFERENCE, JudgedGroups, JudgedMethod, OldPolicy
from contrapose.ranges import AtLeast0, Positive, checked

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from contrapose.core.objective import Objective

_LEAST_SIZE = 1e-5  # what an error is divided by at least, as in the authors' code


def by_size(errors: Float[Tensor, "b n"]) -> Float[Tensor, "b n"]:
    """mse / |residual|, the mean absolute residual taken for that of a normal one; no gradient flows through |.|."""
    sizes = math.sqrt(2 / math.pi) * errors.detach().clamp_min(0).sqrt()
    return errors / sizes.clamp_min(_LEAST_SIZE)


@dataclass(frozen=True)
class NegativeAware:
    """loss = (limit / b) mean [ q mse(y, v+) / |y - v+| + (1 - q) mse(y, v-) / |y - v-| ] + pull mean drift."""

    groups: JudgedGroups
    strength: float
    pull: float

    def __call__(self, measured: Measured) -> Float[Tensor, " b"]:
        assert measured.R is not None and measured.D is not None, "the old policy is the reference"
        b = self.strength
        positive = b * measured.T + (1 - b) * measured.R - b * (1 - b) * measured.D
        negative = -b * measured.T + (1 + b) * measured.R + b * (1 + b) * measured.D
        good = self.groups.shares(measured)
        losses = good * by_size(positive) + (1 - good) * by_size(negative)
        drift = measured.drift_from[REFERENCE]
        return self.groups.advantage_limit / b * losses.mean(1) + self.pull * drift.mean(1)


@dataclass(frozen=True)
@checked
class NFT(JudgedMethod):
    """A prompt's own samples by their advantages: good ones are to be explained, bad ones by the opposite policy."""

    strength: Positive = 1.0
    """b: how far the policies of good and of bad samples lie from the old one, in steps of the trainee's own."""
    groups: JudgedGroups = field(default_factory=JudgedGroups)
    pull: AtLeast0 = 1e-4
    old: OldPolicy = field(default_factory=lambda: OldPolicy(0.5))
    weighting: Weighting = "none"
    space: Space | None = "x0"
    """Where errors are measured; x0 is published for flow models, and for networks that predict noise weighs what is
    nearly noise by far the most: None is the model's own prediction space."""

    def objective(self) -> Objective:
        link = NegativeAware(self.groups, self.strength, self.pull)
        return self.groups.objective(link, self.old, self.weighting, self.space)
