"""DSPO (Zhu et al., ICLR 2025, github.com/huaishengzhu/DSPO): score matching towards what winners are preferred for.

    residual   L = E mean ( (theta_w - n) - k (theta_w - ref_w) )^2,   k = B (1 - sigmoid(m))
               = (1 - k) T_w + k R_w - k (1 - k) D_w
    squared    L = E (1 - sigmoid(m))^2 D_w   where D_w >= .1,   else E (1 - sigmoid(m))^2
    m = r_w - r_l, Diffusion-DPO's margin with the same B;   k carries a gradient in both

n is the forward noise. The authors' code has `residual` for SD1.5 and `squared` for SDXL. What they are in effect, by
arithmetic: at SD1.5's B of .001 the margin is nearly 0 and k at most .001, so that `residual` is fine-tuning on winners
(`sft`) to about three digits; `squared` is the squared probability of the wrong order, unless the trainee has gone a
tenth of the noise's variance away from its reference, which no healthy run does. Compare with `sft` and with
`diffusion-dpo`.

Published with SD1.5: `residual`, beta .001 (the paper tries .001, .01 and .05), batch 2048 (16 x 128 accumulated),
learning rate 2.05e-5 effective, warm-up 500, 2000 steps; SDXL: `squared`, beta 5000, batch 2048 (8 x 256 accumulated),
learning rate 2.05e-5 effective, warm-up 200, 2000 steps; Pick-a-Pic v2, the whole UNet, 20 % of captions dropped.
Differs from the authors' code: which of both terms `squared` takes is decided pair by pair, where theirs compares the
mean over a micro-batch, and so depends on how the batch was cut. A tie counts half in either order.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from contrapose.core.choices import Space, Weighting
from contrapose.core.group import Composition
from contrapose.core.guards import PairGuard, Unguarded, guarded
from contrapose.core.links import pair_margin
from contrapose.core.measured import Measured
from contrapose.methods.method import GuardedMethod
from contrapose.ranges import Positive, checked

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from contrapose.core.objective import Objective

Form = Literal["residual", "squared"]
_GROSS_DRIFT = 0.1


@dataclass(frozen=True)
class PreferredScore:
    """The loss of a form, of a winner that is preferred by the label p: p L(w over l) + (1 - p) L(l over w)."""

    form: Form
    strength: float

    def __call__(self, measured: Measured) -> Float[Tensor, " b"]:
        m = pair_margin(measured)
        winner, loser = measured.labels.unbind(1)
        return winner * self._of_side(measured, 0, m) + loser * self._of_side(measured, 1, -m)

    def _of_side(self, measured: Measured, side: int, m: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """The loss where this side is preferred by the margin m."""
        assert measured.R is not None and measured.D is not None, "DSPO has a reference"
        wrong = (-m).sigmoid()  # 1 - sigmoid(m), without the cancellation
        drift = measured.D[:, side]
        if self.form == "squared":
            return wrong.square() * drift.where(drift >= _GROSS_DRIFT, 1.0)
        k = self.strength * wrong
        return (1 - k) * measured.T[:, side] + k * measured.R[:, side] - k * (1 - k) * drift


@dataclass(frozen=True)
@checked
class DSPO(GuardedMethod):
    """The winner's score, moved along the way from the reference as far as the order of a pair is still wrong."""

    beta: Positive = 0.001
    """Strength, in the unit of Diffusion-DPO's code: of the margin, and in the residual form of the move as well;
    published are .001 for it, and 5000 for the squared form."""
    form: Form = "residual"
    """The authors' loss for SD1.5 (residual) or for SDXL (squared)."""
    guard: PairGuard = field(default_factory=Unguarded)
    weighting: Weighting = "none"
    space: Space | None = None

    def objective(self) -> Objective:
        from contrapose.core.objective import Objective, Side

        sides = (Side("winner"), Side("loser"))
        link = guarded(PreferredScore(self.form, self.beta), self.guard)
        return Objective(sides, link, self.beta, weighting=self.weighting, space=self.space)

    def composition(self) -> Composition:
        return Composition()
