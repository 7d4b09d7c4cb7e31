"""MaPO (Hong et al. 2024, arXiv 2406.06424): winners fitted, and a margin of errors to losers, without a reference.

    L = E T_w - B log sigmoid( T ( f(T_w) - f(T_l) ) ),   f(x) = s x / (e^(s x) - 1)

T_w and T_l are mean squared errors to the forward noise and T = 1000 the number of noise levels; f falls from 1 at no
error, about as 1 - s x / 2. Nothing is compared with a reference, so none is asked: a step costs what one of
fine-tuning on both images does. Nothing holds the policy near where it began but the first term; no `drift` is told.

Published with SDXL: B .1, s .5, learning rate 1e-5, batch 16 (8 x 2 accumulated), 2000 steps, no warm-up, AdamW of 8
bits in fp16, the whole UNet or LoRA of rank 8; trained on Pick-a-Pic v2.
Differs from the authors' code: a tie counts half in either order. Latents are the autoencoder's mean, where theirs are
a fresh sample each time; images are mirrored once, by their seed (`--flip`), where theirs are at random each time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from contrapose.core.choices import Space, Weighting
from contrapose.core.group import Composition
from contrapose.core.links import log_sigmoid
from contrapose.core.measured import Measured
from contrapose.methods.method import MeasuredMethod
from contrapose.ranges import AtLeast0, Positive, checked

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from contrapose.core.objective import Objective

_NUM_LEVELS = 1000


@dataclass(frozen=True)
class FittedMargin:
    """loss = T_w - B log sigmoid(1000 (f(T_w) - f(T_l))), f(x) = s x / (e^(s x) - 1), by the labels in either order."""

    strength: float
    steepness: float

    def __call__(self, measured: Measured) -> Float[Tensor, " b"]:
        scaled = self.steepness * measured.T
        # e^x - 1 would round to nothing at small errors
        fit = scaled / scaled.expm1()
        m = _NUM_LEVELS * (fit[:, 0] - fit[:, 1])
        of_first = measured.T[:, 0] - self.strength * log_sigmoid(m)
        of_second = measured.T[:, 1] - self.strength * log_sigmoid(-m)
        return measured.labels[:, 0] * of_first + measured.labels[:, 1] * of_second


@dataclass(frozen=True)
@checked
class MaPO(MeasuredMethod):
    """Plain fine-tuning on winners, with a margin of errors to losers and no reference."""

    beta: AtLeast0 = 0.1
    """Weight of the margin beside the winner's error, the paper's B; 0 is fine-tuning on winners alone."""
    steepness: Positive = 0.5
    """How fast an error's fit f(x) = s x / (e^(s x) - 1) falls: the paper's s, which its code calls an SNR value."""
    weighting: Weighting = "none"
    space: Space | None = None

    def objective(self) -> Objective:
        """beta = 2 makes a reward the plain negative error."""
        from contrapose.core.objective import Objective, Side

        sides = (Side("winner"), Side("loser"))
        link = FittedMargin(self.beta, self.steepness)
        return Objective(sides, link, 2.0, reference=None, weighting=self.weighting, space=self.space)

    def composition(self) -> Composition:
        return Composition()
