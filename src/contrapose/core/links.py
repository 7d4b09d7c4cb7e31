"""From what was measured to a loss: how a comparison is scored, one number a group.

A link reads `Measured`: rewards r, errors T, R and D, labels, scores, all [b, n] for `n` sides, in the order of the
objective. Links for pairs compare the first side with the second, under the labels of both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Protocol, runtime_checkable

from contrapose.core.measured import Measured
from contrapose.core.shares import mix
from contrapose.ranges import Positive, Range, ShareBelow1, checked

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


@runtime_checkable
class Link(Protocol):
    """A loss a group from what was measured of it; each group is scored alone."""

    def __call__(self, measured: Measured) -> Float[Tensor, " b"]: ...


@runtime_checkable
class Guard(Protocol):
    """What is kept of each side's slope, 0 to 1, from what was measured of its group."""

    def __call__(self, measured: Measured) -> Float[Tensor, "b n"]: ...


def weighted_sum(rewards: Float[Tensor, "b n"], weights: Sequence[float]) -> Float[Tensor, " b"]:
    """m = sum_i a_i r_i; weights of (1, -1) make it a pair's margin r_w - r_l."""
    assert rewards.shape[1] == len(weights), "a weight for each side"
    # weights stay numbers of the host: it would wait for the device to make a tensor of them
    return mix(dict(enumerate(rewards.unbind(1))), dict(enumerate(weights)))


def pair_margin(measured: Measured) -> Float[Tensor, " b"]:
    """A pair's m = r_w - r_l: by place, winner then loser; which of them is preferred stands in the labels."""
    return weighted_sum(measured.rewards, (1.0, -1.0))


def log_sigmoid(m: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """log 1 / (1 + exp(-m)). Imports torch when it is called, since settings name links long before that."""
    from torch.nn.functional import logsigmoid

    return logsigmoid(m)


@dataclass(frozen=True)
class Identity:
    """loss = -mean r: plain regression to the truth; labels, of however many sides, play no part."""

    def __call__(self, measured: Measured) -> Float[Tensor, " b"]:
        return -measured.rewards.mean(1)


@dataclass(frozen=True)
@checked
class Sigmoid:
    """loss = -p log sigmoid(m) - (1 - p) log sigmoid(-m), m = r_w - r_l (Bradley-Terry; Wallace et al. 2023, eq. 14).

    p is the winner's label, drawn towards the loser's by `smoothing` e: p = (1 - e) label_w + e label_l.
    """

    smoothing: Annotated[float, Range(0, 0.5)] = 0.0
    """How far each label is drawn towards the other side's, as if that share of labels were wrong; 0 to 0.5."""

    def __call__(self, measured: Measured) -> Float[Tensor, " b"]:
        m = pair_margin(measured)
        # a pair's labels add up to 1, so that 1 - p is the loser's, drawn the same way
        p = (1 - self.smoothing) * measured.labels[:, 0] + self.smoothing * measured.labels[:, 1]
        return -p * log_sigmoid(m) - (1 - p) * log_sigmoid(-m)


@dataclass(frozen=True)
@checked
class IPO:
    """loss = p (m - g)^2 + (1 - p) (m + g)^2, m = r_w - r_l: a margin g to meet (Azar et al. 2023, eq. 17).

    With g = 1/2 this is beta^2 times the paper's (h - 1 / (2 beta))^2, since r carries beta already.
    """

    margin: Positive = 0.5
    """The difference of rewards that a decided pair is to meet."""

    def __call__(self, measured: Measured) -> Float[Tensor, " b"]:
        m = pair_margin(measured)
        # a tie, halves, has its least loss at m = 0: both margins pull alike
        winner, loser = measured.labels.unbind(1)
        return winner * (m - self.margin).square() + loser * (m + self.margin).square()


@dataclass(frozen=True)
@checked
class Hinge:
    """loss = p max(0, g - m) + (1 - p) max(0, g + m), m = r_w - r_l, g the margin (SLiC; as in Diffusion-DRO)."""

    margin: Positive = 1.0
    """The difference of rewards from which on a pair costs nothing."""

    def __call__(self, measured: Measured) -> Float[Tensor, " b"]:
        m = pair_margin(measured)
        winner, loser = measured.labels.unbind(1)
        return winner * (self.margin - m).relu() + loser * (self.margin + m).relu()


@dataclass(frozen=True)
class Signed:
    """loss = -log sigmoid(sum_i a_i r_i): sides with weights of their own, which do not depend on their labels.

    (1, -1) is Diffusion-DPO's decided pair; (1, 1) is CHATS, whose sides have a policy each (ICML 2025).
    """

    weights: tuple[float, ...] = (1.0, -1.0)

    def __call__(self, measured: Measured) -> Float[Tensor, " b"]:
        return -log_sigmoid(weighted_sum(measured.rewards, self.weights))


@dataclass(frozen=True)
@checked
class Clipped:
    """loss = -p log sigmoid(m) - (1 - p) log sigmoid(-m), m = B (l_w - l_l), l = log clip(exp(r), 1 - c, 1 + c).

    The rewards are logarithms of ratios of densities, the trainee's to the reference's (`transitions.py`). Beyond the
    clip there is no slope: what has become so much more or less likely is let alone (D3PO, Yang et al. 2023; SPO).
    """

    beta: Positive = 10.0
    """Strength of the pull to the reference."""
    clip: ShareBelow1 | None = 0.1
    """How far from 1 a ratio counts; any distance when unset."""

    def __call__(self, measured: Measured) -> Float[Tensor, " b"]:
        rewards = measured.rewards
        if self.clip is not None:
            # in logarithms, so that no ratio is too large a number
            rewards = rewards.clamp(math.log1p(-self.clip), math.log1p(self.clip))
        return Sigmoid()(measured.with_live(measured.live() | {"rewards": self.beta * rewards}))


@dataclass(frozen=True)
class Guarded:
    """Another link's loss, of whose slope each side keeps the share that a guard says (guards.py).

    The guard reads the numbers alone: no gradient flows through its answer.
    """

    link: Link
    guard: Guard

    def __call__(self, measured: Measured) -> Float[Tensor, " b"]:
        kept = self.guard(measured.detached())
        # `scaled` leaves every value as it is: the loss is the link's own, and only its gradient is guarded
        return self.link(measured.scaled(kept))


PairLink = Sigmoid | IPO | Hinge
LINKS: dict[str, type[PairLink]] = {"sigmoid": Sigmoid, "ipo": IPO, "hinge": Hinge}
"""Links that a setting may choose, by name."""
