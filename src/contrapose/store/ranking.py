"""Samples in the order of a number that each has, and the labels that follow from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Ranking(NamedTuple):
    """The places of samples from the best down, and the rank of each of them, from 0."""

    order: list[int]
    ranks: list[int]

    @property
    def labels(self) -> tuple[float, ...]:
        """A label for each sample at even distances, 1 for the best and 0 for the last; halves where all are tied."""
        labels = [0.5] * len(self.order)
        for place, rank in zip(self.order, self.ranks, strict=True):
            if self.ranks[-1]:
                labels[place] = 1 - rank / self.ranks[-1]
        return tuple(labels)


def ranked(numbers: Sequence[float], tie_margin: float = 0.0) -> Ranking:
    """The ranking of samples by these numbers, larger ones being better.

    What is no more than `tie_margin` below the best of a rank shares it; of equal ones the first comes first.
    """
    order = sorted(range(len(numbers)), key=lambda place: -numbers[place])
    ranks: list[int] = []
    best = order[0]
    for place in order:
        if numbers[best] - numbers[place] > tie_margin:
            best = place
            ranks.append(ranks[-1] + 1)
        else:
            ranks.append(ranks[-1] if ranks else 0)
    return Ranking(order, ranks)
