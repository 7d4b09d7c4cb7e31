"""From rewards to a loss: how a comparison's outcome is scored.

Rewards and labels have shape [b, n]; side 0 is the winner. Labels are shares of preference that sum to one: (1, 0) for
a decided pair, (0.5, 0.5) for a tie.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Protocol, runtime_checkable

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from contrapose.ranges import Positive, Range, checked


@runtime_checkable
class Link(Protocol):
    """A loss per group from its rewards and labels."""

    def __call__(self, rewards: Float[Tensor, "b n"], labels: Float[Tensor, "b n"]) -> Float[Tensor, " b"]: ...


def _margin(rewards: Float[Tensor, "b n"]) -> Float[Tensor, " b"]:
    assert rewards.shape[1] == 2, "a pairwise link compares two sides"
    return rewards[:, 0] - rewards[:, 1]


@dataclass(frozen=True)
class Identity:
    """loss = -mean r: plain regression to the target; labels, of however many sides, play no part."""

    def __call__(self, rewards: Float[Tensor, "b n"], labels: Float[Tensor, "b _"]) -> Float[Tensor, " b"]:
        return -rewards.mean(1)


@dataclass(frozen=True)
@checked
class Sigmoid:
    """loss = -p log sigmoid(m) - (1 - p) log sigmoid(-m), m = r_w - r_l (Bradley-Terry; Wallace et al. 2023, eq. 14).

    p is the winner's label, drawn towards the loser's by `smoothing` e: p = (1 - e) label_w + e label_l.
    """

    smoothing: Annotated[float, Range(0, 0.5)] = 0.0

    def __call__(self, rewards: Float[Tensor, "b n"], labels: Float[Tensor, "b n"]) -> Float[Tensor, " b"]:
        margin = _margin(rewards)
        p = (1 - self.smoothing) * labels[:, 0] + self.smoothing * labels[:, 1]
        return -p * F.logsigmoid(margin) - (1 - p) * F.logsigmoid(-margin)


@dataclass(frozen=True)
@checked
class IPO:
    """loss = p (m - g)^2 + (1 - p) (m + g)^2, m = r_w - r_l: a margin to meet (Azar et al. 2023, eq. 17).

    With g = 1/2 this is beta^2 times the paper's (h - 1 / (2 beta))^2, since r carries beta already.
    """

    margin: Positive = 0.5

    def __call__(self, rewards: Float[Tensor, "b n"], labels: Float[Tensor, "b n"]) -> Float[Tensor, " b"]:
        m = _margin(rewards)
        return labels[:, 0] * (m - self.margin).square() + labels[:, 1] * (m + self.margin).square()


@dataclass(frozen=True)
@checked
class Hinge:
    """loss = p max(0, g - m) + (1 - p) max(0, g + m), m = r_w - r_l (SLiC; the form of Diffusion-DRO's stage 1)."""

    margin: Positive = 1.0

    def __call__(self, rewards: Float[Tensor, "b n"], labels: Float[Tensor, "b n"]) -> Float[Tensor, " b"]:
        m = _margin(rewards)
        return labels[:, 0] * (self.margin - m).relu() + labels[:, 1] * (self.margin + m).relu()


@dataclass(frozen=True)
class Together:
    """loss = -log sigmoid(r_w + r_l): each side fits its own images, with a policy of its own (CHATS, ICML 2025)."""

    def __call__(self, rewards: Float[Tensor, "b n"], labels: Float[Tensor, "b _"]) -> Float[Tensor, " b"]:
        return -F.logsigmoid(rewards.sum(1))


PairLink = Sigmoid | IPO | Hinge
