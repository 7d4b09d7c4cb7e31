"""SmPO (ICML 2025, arXiv 2506.02698, eq. 9): InPO's noise by a closer inversion, margins by how sure a judge is.

    L = -E log sigmoid( -(beta / 2) k (2 p - 1) [ (mse_w - mse_l)_theta - (mse_w - mse_l)_ref ] ),   k = 10
    p = exp(s_w) / (exp(s_w) + exp(s_l)),   s a judge's scores, over its range on the data

mse is to each image's own noise, by inversion of DDIM of which every step asks twice and takes the mean (ReNoise). p is
a pair's own label where no judge is named, 1 for a decided pair. A pair costs 4 n forwards more than one of
Diffusion-DPO, n the steps of inversion.

Published on Pick-a-Pic v2, scored by PickScore, whose cosines go from 0.11544 to 0.28202 there, so that 16.66 is the
range of PickScore as it is stored here, 100 times the cosine: SD1.5 n 5, beta 2000, from a model fitted on winners;
SDXL n 10, beta 5000, Adafactor; both full, fp16, 20 % of captions dropped, batch 1024 (1 x 128 accumulated x 8 GPUs),
200 steps, warm-up 100, effective learning rate 1.02e-5 (1e-8 with --scale_lr: times the batch).
Differs from the authors' code: as InPO does, but for eta, which is 0 in both. Its winner is the image of the higher
score; here the pair's winner stays one, and a judge that prefers its loser turns the margin round.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from contrapose.core.choices import Space, Weighting
from contrapose.core.group import Composition
from contrapose.core.links import Signed
from contrapose.core.measured import Measured
from contrapose.methods.method import RewardMethod
from contrapose.ranges import Positive, Steps, check_unused, checked

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from contrapose.core.objective import Objective


@dataclass(frozen=True)
class BySureness:
    """loss = -log sigmoid(k (2 p - 1) (r_w - r_l)), p how likely the winner is the better one."""

    sureness: float
    judge: str | None
    score_range: float

    def __call__(self, measured: Measured) -> Float[Tensor, " b"]:
        factor = self.sureness * (2 * self._preference(measured) - 1)
        scaled = measured.with_live(measured.live() | {"rewards": factor[:, None] * measured.rewards})
        return Signed()(scaled)

    def _preference(self, measured: Measured) -> Float[Tensor, " b"]:
        if self.judge is None:
            return measured.labels[:, 0]
        winner, loser = measured.scores[self.judge].unbind(1)
        # a softmax over two is the logistic function of their difference
        return ((winner - loser) / self.score_range).sigmoid()


@dataclass(frozen=True)
@checked
class SmPO(RewardMethod):
    """Winner over loser under their inverted noise, as far as a judge's scores of both lie apart."""

    beta: Positive = 2000.0
    inversion_steps: Steps = 5
    """Steps from an image to its noise, each of two more predictions a sample."""
    judge: str | None = None
    """Judge by whose stored scores a pair counts; the pair's own label when unset."""
    score_range: Positive = 16.66
    """The judge's largest score less its smallest on the data; that of PickScore on Pick-a-Pic."""
    sureness: Positive = 10.0
    """What 2 p - 1 is multiplied by."""
    weighting: Weighting = "none"
    space: Space | None = None

    instead_of_swap: ClassVar[str | None] = "a judge's scores say which one is; swap inpo instead"

    def __post_init__(self) -> None:
        if self.judge is None:
            check_unused(
                self, ("score_range",), "is of a judge's scores, and a pair counts by its label without a judge"
            )

    def objective(self) -> Objective:
        from contrapose.core.objective import Objective, Side
        from contrapose.core.walks import Inversion

        link = BySureness(self.sureness, self.judge, self.score_range)
        walk = Inversion(self.inversion_steps, renoise=True)
        sides = (Side("winner"), Side("loser"))
        return Objective(sides, link, self.beta, weighting=self.weighting, space=self.space, walk=walk)

    def composition(self) -> Composition:
        return Composition(judge=self.judge)
