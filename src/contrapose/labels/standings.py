"""Where each sample of a group stands by its scores: by their weighted sum, or by Pareto fronts of several judges."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Column = Sequence[float]
"""One score of each sample of a group, times its weight, so that more is better."""


class Standing(NamedTuple):
    """A sample's place among its group's: those of one `level` are equals, and `within` says which is named first."""

    level: float
    within: float = 0.0


def by_sum(columns: Sequence[Column]) -> list[Standing]:
    """The sum of each sample's scores."""
    return [Standing(sum(numbers)) for numbers in zip(*columns, strict=True)]


def by_fronts(columns: Sequence[Column]) -> list[Standing]:
    """0 for samples that no other dominates, -1 for those that only such dominate, and so on (CaPO's fronts).

    One sample dominates another where it is worse by no score and better by one. Within a front, by the mean win rate.
    """
    # [n, n, judges]: by how much sample i is better than sample j
    better: NDArray[np.float64] = np.subtract.outer(columns, columns).diagonal(axis1=0, axis2=2)
    dominates = np.logical_and((better >= 0).all(2), (better > 0).any(2))
    rates = mean_win_rates(columns)
    levels = np.zeros(len(rates))
    left = np.ones(len(rates), bool)
    while left.any():
        # dominance has no circles, so that each round takes one sample at least
        left &= dominates[left].any(0)
        levels[left] -= 1
    return [Standing(float(level), rate) for level, rate in zip(levels, rates, strict=True)]


def mean_win_rates(columns: Sequence[Column]) -> list[float]:
    """How often each sample is expected to win against another of its group: calibrated scores, averaged over judges.

        s_i = mean over judges and over j other than i of sigmoid(R_i - R_j)

    R is a score times its weight (CaPO, Lee et al. 2025, arXiv 2502.02588). A sample that is alone has a half.
    """
    num = len(columns[0])
    if num == 1:
        return [0.5]
    rates = np.zeros(num)
    for column in columns:
        # the logistic function by way of tanh, which has a number everywhere
        wins = 0.5 + 0.5 * np.tanh(0.5 * np.subtract.outer(column, column))
        np.fill_diagonal(wins, 0.0)
        rates += wins.sum(1) / (num - 1)
    return [float(rate) for rate in rates / len(columns)]
