"""How sure a number of a set is: the number again without each group of prompts, since it has no value per image.

A bootstrap misleads here. A draw with replacement holds images twice, and of fewer different images FID is larger, so
that its percentiles lie beside FID itself: benchmarks/set_intervals.py simulates how often either interval covers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contrapose.evaluate.statistics import LEVEL, Interval
from contrapose.evaluate.training_seeds import Variances

NUM_GROUPS = 20
_FEWEST = 3  # prompts of which an interval is made: without one of them there are still two images

Groups = NDArray[np.intp]
"""The group of each image [n], 0 to the number of groups less one."""


@dataclass(frozen=True)
class Varied:
    """A number of a set, and the same of the set without each of its groups."""

    value: float
    without: NDArray[np.float64]
    """[g]; empty where the set has no groups, or is too small without one of them."""
    deviation: float | None = None
    """Standard deviation over subsets or splits, where the number is a mean over these; it is not an interval."""

    def minus(self, other: Varied) -> Varied:
        """The difference of two sets whose groups are of the same prompts."""
        if len(self.without) != len(other.without):
            return Varied(self.value - other.value, np.empty(0))
        return Varied(self.value - other.value, self.without - other.without)


def groups_of(prompt_ids: Sequence[str], tags: Sequence[str], seed: int = 0) -> Groups | None:
    """Each image's group: up to 20 groups of whole prompts, the prompts of every tag spread evenly over them.

    None for fewer than three prompts, of which no interval is made.
    """
    tag_of = dict(zip(prompt_ids, tags, strict=True))
    names = sorted(tag_of)
    if len(names) < _FEWEST:
        return None
    shuffled = [names[place] for place in np.random.default_rng(seed).permutation(len(names))]
    # sorted by tag, within which the order stays that of the lot
    dealt = sorted(shuffled, key=tag_of.__getitem__)
    group_of = {name: place % NUM_GROUPS for place, name in enumerate(dealt)}
    return np.array([group_of[name] for name in prompt_ids], dtype=np.intp)


def kept(groups: Groups | None, count: int) -> Iterator[NDArray[np.bool_]]:
    """Which images stay [n]: all of them first, then all but each group's."""
    yield np.ones(count, dtype=bool)
    if groups is not None:
        for group in range(int(groups.max()) + 1):
            yield groups != group


def vary(measure: Callable[[NDArray[np.bool_]], float], groups: Groups | None, count: int) -> Varied:
    """A number by a function of which images stay [n], with all of them and without each group."""
    value, *without = [measure(keep) for keep in kept(groups, count)]
    return Varied(value, np.array(without))


def interval(varied: Varied, groups: Groups | None, level: float = LEVEL) -> Interval | None:
    """The number with its interval over prompts: Student's, of one degree of freedom less than there are groups.

    It is about what other prompts would give with as many images, the bias of that number of images included. None
    where there are no groups.
    """
    return over_runs([varied], groups, level)


def over_runs(runs: Sequence[Varied], groups: Groups | None, level: float = LEVEL) -> Interval | None:
    """The mean over runs of one method with different training seeds, with its interval over prompts and seeds.

    `training_seeds.over_seeds` has the formula; here the parts of the variance that are by prompts, and by a seed and a
    prompt together, are jackknifed. None where there are no groups.
    """
    if groups is None or not all(len(run.without) for run in runs):
        return None
    num_runs = len(runs)
    values = np.array([run.value for run in runs])
    # a group is left out of all runs at once, since they have the same prompts
    mean = Varied(float(values.mean()), np.mean([run.without for run in runs], axis=0))
    seeds = 0.0
    together = 0.0
    if num_runs > 1:
        seeds = float(values.var(ddof=1) / num_runs)
        # what a seed does to some prompts and not to others: how a run strays from the mean as groups go
        together = sum(_variance(run.minus(mean), groups) for run in runs) / (num_runs - 1) / num_runs
    parts = Variances(
        seeds=seeds,
        together=together,
        seeds_freedom=num_runs - 1,
        prompts=_variance(mean, groups),
        prompts_freedom=len(mean.without) - 1,
    )
    half = parts.width((1 + level) / 2)
    return Interval(mean.value, mean.value - half, mean.value + half)


def _variance(varied: Varied, groups: Groups) -> float:
    """The variance by prompts, by the jackknife of groups of unequal size (Busing et al. 1999).

    With h_j = n / n_j, pseudo-values  h_j v - (h_j - 1) v_(j)  around their jackknife mean
    v_J = G v - sum_j (1 - 1/h_j) v_(j)  have the variance  1/G sum_j (pseudo_j - v_J)^2 / (h_j - 1).
    """
    shares = np.bincount(groups) / len(groups)
    parts = 1 / shares
    pseudo = parts * varied.value - (parts - 1) * varied.without
    centre = len(shares) * varied.value - ((1 - shares) * varied.without).sum()
    return float(((pseudo - centre) ** 2 / (parts - 1)).mean())
