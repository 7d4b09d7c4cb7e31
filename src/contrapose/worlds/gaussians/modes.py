"""The truth of the Gaussians world: one clean mode a condition, the noisy data a reference learns from, and pairs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from contrapose.worlds.gaussians.settings import Neighbours

if TYPE_CHECKING:
    from jaxtyping import Float, Int

Points: TypeAlias = "Float[Tensor, 'n 2']"
Labels: TypeAlias = "Int[Tensor, ' n']"


@dataclass(frozen=True)
class Modes:
    """`num_modes` round Gaussians on a circle; condition c means mode c.

    A mode is taken for its neighbours: in couples, 0 with 1, 2 with 3 and so on, or on both of its sides.
    """

    num_modes: int = 8
    radius: float = 1.4  # makes the variance of either coordinate about one, as diffusion paths expect
    spread: float = 0.12
    noisy_spread: float = 0.25
    mislabelled: float = 0.3
    neighbours: Neighbours = "couple"

    @property
    def centres(self) -> Float[Tensor, "modes 2"]:
        angles = torch.arange(self.num_modes) * (2 * math.pi / self.num_modes)
        return self.radius * torch.stack([angles.cos(), angles.sin()], 1)

    def clean(self, labels: Labels, random: torch.Generator) -> Points:
        """What each condition should look like."""
        return self.centres[labels] + self.spread * torch.randn(len(labels), 2, generator=random)

    def noisy(self, labels: Labels, random: torch.Generator) -> Points:
        """What the reference is taught: blurred, and a share of the points taken from a neighbour's mode."""
        wrong = torch.rand(len(labels), generator=random) < self.mislabelled
        side = torch.randint(2, (len(labels),), generator=random)
        shown = torch.where(wrong, self.neighbour(labels, side), labels)
        return self.centres[shown] + self.noisy_spread * torch.randn(len(labels), 2, generator=random)

    def neighbour(self, labels: Labels, side: Labels) -> Labels:
        """The mode that each is taken for; `side` 0 or 1 says which way to go where there are two."""
        if self.neighbours == "couple":
            return labels ^ 1  # the last bit tells the two of a couple apart
        return (labels + 1 - 2 * side) % self.num_modes

    def labels(self, each: int) -> Labels:
        """Every condition `each` times: 0, 0, ..., 1, 1, ..."""
        return torch.arange(self.num_modes).repeat_interleave(each)


@dataclass(frozen=True, eq=False)
class ModePairs:
    """Preference pairs, one record a row; the fields carry the names that a `Composition` picks."""

    winner: Points
    loser: Points
    prompt: Labels
    degraded: Labels
    modes: Modes
    """The world that they are of."""


def draw_pairs(modes: Modes, each: int, random: torch.Generator) -> ModePairs:
    """`each` pairs a condition: the winner from its own clean mode, the loser from its neighbour's.

    The neighbour is also the degraded prompt. Of two neighbours it is one and the other by turns.
    """
    prompt = modes.labels(each)
    # a pair's number within its condition, so that the sides change by turns in every condition alike
    degraded = modes.neighbour(prompt, torch.arange(len(prompt)) % each % 2)
    return ModePairs(modes.clean(prompt, random), modes.clean(degraded, random), prompt, degraded, modes)
