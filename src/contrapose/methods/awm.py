"""AWM (Xue et al. 2025, arXiv 2509.25050): own samples weighted by their advantages, as in policy gradients.

    L = E max( -a w, -a clip(w, 1 - c, 1 + c) ) + pull mse(theta, ref) + old_pull mse(theta, old)
    w = exp( l_theta - l_old ),   l = -t^k [ (mse + e)^p - e^p ] / p,   a = A / limit,   mse to the forward noise

A is how much better than its group's mean a judge scores an image, in deviations; l stands for the likelihood of the
image at noise level t. With p = 1 it is the error itself; with smaller powers large errors count less. Where theta has
just been old, w is 1 and the gradient that of -a l_theta.

The old policy draws the groups that are trained on. With `stored` they are a folder's, and the old policy is to be the
one that drew them, which stays: `--old-decay None`.

Published with SD3.5-Medium at 512 pixels, drawn by 14 steps without guidance: p .25, e 1e-10, k 1, c 1, limit 5, pull
.003 (1e-4 with PickScore), old_pull 1; 24 images of each of 72 prompts (24 with PickScore) a step, LoRA rank 32 (alpha
64), learning rate 3e-4, weight decay 1e-4, an average of the weights (.99); the old policy keeps .001 more at each
step, at most .3.
Differs from the authors' code: the old policy draws and w is against it, as with their `off_policy`; by default the
trainee is both, so that w is 1. Deviations are those of a group, where theirs are of all images of a step.
The images of a group share a time of the run's own and their noise, where each of theirs is asked at six of its
sampler's times, under a noise of its own at each. Their `huber` is p = .5 with half the weight.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from contrapose.core.choices import Space, Weighting
from contrapose.core.measured import Measured
from contrapose.methods.judged_groups import REFERENCE, JudgedGroups, JudgedMethod, OldPolicy
from contrapose.ranges import AtLeast0, Positive, ShareAbove0, checked

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from contrapose.core.objective import Objective

_LEAST_ERROR = 1e-10  # at which the slope of a power is still a number


@dataclass(frozen=True)
class ClippedRatio:
    """loss = mean max(-a w, -a clip(w, 1 - c, 1 + c)) + pull mean drift + old_pull mean D, w = exp(l_theta - l_old)."""

    groups: JudgedGroups
    error_power: float
    level_power: float
    ratio_clip: float
    pull: float
    old_pull: float

    def __call__(self, measured: Measured) -> Float[Tensor, " b"]:
        assert measured.R is not None and measured.D is not None, "the old policy is the reference"
        ratio = (self._likelihood(measured.T, measured) - self._likelihood(measured.R, measured)).exp()
        gains = self.groups.advantages(measured) / self.groups.advantage_limit
        clipped = gains * ratio.clamp(1 - self.ratio_clip, 1 + self.ratio_clip)
        losses = (-gains * ratio).maximum(-clipped)
        losses = losses + self.pull * measured.drift_from[REFERENCE] + self.old_pull * measured.D
        return losses.mean(1)

    def _likelihood(self, errors: Float[Tensor, "b n"], measured: Measured) -> Float[Tensor, "b n"]:
        p = self.error_power
        least: float = _LEAST_ERROR**p
        powers = (errors + _LEAST_ERROR).pow(p) - least
        return -measured.level[:, None].pow(self.level_power) * powers / p


@dataclass(frozen=True)
@checked
class AWM(JudgedMethod):
    """A prompt's own samples by their advantages, under a clipped ratio to the policy of a moment ago."""

    error_power: ShareAbove0 = 0.25
    """p: the power of an error that stands for a likelihood; 1 is the error itself."""
    level_power: AtLeast0 = 1.0
    """k: the power of the noise level, 0 to 1, by which a likelihood counts; 0 has all levels count alike."""
    groups: JudgedGroups = field(default_factory=JudgedGroups)
    ratio_clip: Positive = 1.0
    """c: how far the ratio to the old policy may leave 1 before an image has no more gradient."""
    pull: AtLeast0 = 0.003
    old_pull: AtLeast0 = 1.0
    """Weight of the squared distance from the old policy."""
    old: OldPolicy = field(default_factory=OldPolicy)
    weighting: Weighting = "none"
    """Loss weight by noise level, of the distances too."""
    space: Space | None = None

    def objective(self) -> Objective:
        link = ClippedRatio(self.groups, self.error_power, self.level_power, self.ratio_clip, self.pull, self.old_pull)
        return self.groups.objective(link, self.old, self.weighting, self.space)
