"""Guards: how much of each side's slope a link keeps, so that winners are not given up to push losers away.

A guard goes around any link of pairs (`links.Guarded`); the loss keeps its value, and its gradient is guarded. It reads
a pair's numbers alone, so that micro-batches, processes and gradients taken side by side change nothing. By the labels
(p, 1 - p) the first side is the winner with p and the loser with 1 - p: of a tie both are guarded half.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from contrapose.core.links import Guarded, Link
from contrapose.core.measured import Measured
from contrapose.ranges import Positive, Share, checked

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


@dataclass(frozen=True)
class Unguarded:
    """All of both slopes: no guard."""

    def __call__(self, measured: Measured) -> Float[Tensor, "b n"]:
        return measured.rewards.new_ones(measured.rewards.shape)


@dataclass(frozen=True)
@checked
class SDPO:
    """The share of the loser's slope that keeps the winner's error from rising, to first order (Diffusion-SDPO).

        kept = clamp( (1 - mu) <e_w, e_w> / <e_w, e_l>, 0, 1 )   where <e_w, e_l> > 0,   else 1

    e is a side's residual, truth - trainee, and <.,.> the mean product over elements: both errors' gradients in the
    space of predictions are along these residuals (Fu et al. 2025, arXiv 2511.03317). Published mu: .9 on SD1.5, but .2
    around `dspo`; .6 on SDXL. Around a margin of rewards it is published with Diffusion-DPO, DSPO and DMPO; around
    DDSPO's, whose two sides have truths of their own, it is ours.

    Differs from the authors' code: theirs is one number for a micro-batch of 8 pairs, all of whose gradients are taken
    as one vector, and so depends on how the batch was cut; here each pair has its own.
    """

    mu: Share = 0.9
    """How much of the winner's own gain is to be kept: at 0 its error may stand still, at 1 no loser counts that pulls
    against it."""

    def __call__(self, measured: Measured) -> Float[Tensor, "b n"]:
        across = measured.overlap[:, 0, 1]
        # [b, n]: of each side as the loser, by its partner as the winner
        of_partner = measured.overlap.diagonal(dim1=1, dim2=2).flip(1)
        share = ((1 - self.mu) * of_partner / across[:, None]).clamp(0, 1)
        return _of_losers(share.where(across[:, None] > 0, 1.0), measured.labels)


@dataclass(frozen=True)
@checked
class Cooling:
    """Less of a loser's slope, the farther it has been pushed away already (after CW-DPO, arXiv 2510.11978).

        kept = min( 1, 2 sigmoid(r_l / temperature) )

    CW-DPO scales the negative term for language models by a weight from the policy's mean
    log-probability of the negative, so that negatives which are unlikely already add no noise. A diffusion model's
    log-probability is known against its reference's, as the reward r; the loss's value stays, and its gradient cools.
    The form is ours: nothing is cooled while the trainee explains the loser as well as its reference does.
    """

    temperature: Positive = 1.0
    """The fall of a loser's reward, in the unit of rewards, at which about half of its slope is left."""

    def __call__(self, measured: Measured) -> Float[Tensor, "b n"]:
        kept = 2 * (measured.rewards / self.temperature).sigmoid()
        return _of_losers(kept.clamp(max=1), measured.labels)


def _of_losers(kept: Float[Tensor, "b n"], labels: Float[Tensor, "b n"]) -> Float[Tensor, "b n"]:
    """What is kept of each side, as the loser by one less its label, and all of it as the winner."""
    return labels + (1 - labels) * kept


PairGuard = Unguarded | SDPO | Cooling
GUARDS: dict[str, type[PairGuard]] = {"none": Unguarded, "sdpo": SDPO, "cooling": Cooling}
"""Guards that a setting may choose, by name."""


def guarded(link: Link, guard: PairGuard) -> Link:
    """The link under this guard; the link itself where there is none."""
    return link if guard == Unguarded() else Guarded(link, guard)
