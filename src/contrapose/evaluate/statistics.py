"""Intervals and tests whose unit is the prompt: images of one prompt are alike, and are averaged before anything else.

The overall score is GenEval's: the mean of the tags' means, so that large and small categories count the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from contrapose.ranges import Number, Range, checked

REPLICATES = 10_000
Replicates = Annotated[int, Range(1, 10**6, integer=True)]
LEVEL = 0.95
_LARGEST_MATRIX = 4_000_000  # entries of random numbers held at once
_MOST_KEPT = 20_000_000  # entries of a bootstrap's draws that are kept for the next one


@dataclass(frozen=True)
@checked
class Interval:
    """A value and the interval around it."""

    value: Number
    low: Number
    high: Number

    def scaled(self, factor: float) -> Interval:
        """The same in another unit."""
        return Interval(self.value * factor, self.low * factor, self.high * factor)


@dataclass(frozen=True)
class TagIntervals:
    """The mean of the tags' means, and each tag's own mean."""

    overall: Interval
    tags: dict[str, Interval]


@dataclass(frozen=True)
class PromptMeans:
    """One value per prompt, and the prompt's tag."""

    values: NDArray[np.float64]
    tags: tuple[str, ...]


def prompt_means(values: NDArray[np.float64], prompt_ids: Sequence[str], tags: Sequence[str]) -> PromptMeans:
    """Average the images of each prompt:  m_p = mean_i x_pi.

    With as many images for each prompt (as GenEval has), a tag's mean over prompts is its mean over images.
    """
    names, first, index = np.unique(np.asarray(prompt_ids), return_index=True, return_inverse=True)
    sums = np.bincount(index, weights=values, minlength=len(names))
    return PromptMeans(sums / np.bincount(index), tuple(tags[i] for i in first))


def bootstrap(means: PromptMeans, *, replicates: int = REPLICATES, level: float = LEVEL, seed: int = 0) -> TagIntervals:
    """Cluster bootstrap over prompts, stratified by tag, with percentile intervals.

    A replicate draws each tag's n_g prompts anew with replacement: m*_g = mean of the drawn m_p, and overall
    m* = (1/G) sum_g m*_g. The interval holds the replicates from quantile (1 - level)/2 to (1 + level)/2. Differences
    of two models and win rates are per-prompt values as scores are, so the same function serves them.

    A tag of one prompt is always drawn as it is, so that both ends of its own interval are its value. Overall it would
    count as known for certain: there such tags are drawn from together, as one of `strata_of`.
    """
    by_tag = _by_tag(means)
    sizes = tuple(map(len, by_tag.values()))
    drawn: dict[str, NDArray[np.float64]] = {}
    for (tag, values), sums in zip(by_tag.items(), _drawn_sums(tuple(by_tag.values()), replicates, seed), strict=True):
        drawn[tag] = sums / len(values)
    # Each tag's rows were drawn independently, so row k of every tag together is one replicate of the whole.
    overall = np.mean(list(drawn.values()), axis=0)
    if min(sizes) == 1 < sum(sizes):
        overall = _joined(means, replicates, seed)
    intervals = {tag: _percentiles(float(values.mean()), drawn[tag], level) for tag, values in by_tag.items()}
    return TagIntervals(_percentiles(mean_of_tags(means), overall, level), intervals)


def _joined(means: PromptMeans, replicates: int, seed: int) -> NDArray[np.float64]:
    """Overall replicates by strata: each stratum's weighted mean of what is drawn, times the weight that it has.

    Weights differ where a tag of one prompt is joined to a larger one.
    """
    weights = tag_weights(means.tags)
    strata = strata_of(means.tags)
    # both of the same draws
    of_values = _drawn_sums([(weights * means.values)[places] for places in strata], replicates, seed)
    of_weights = _drawn_sums([weights[places] for places in strata], replicates, seed)
    overall = np.zeros(replicates)
    for values, drawn, places in zip(of_values, of_weights, strata, strict=True):
        overall += values / drawn * weights[places].sum()
    return overall


def _drawn_sums(groups: Sequence[NDArray[np.float64]], replicates: int, seed: int) -> list[NDArray[np.float64]]:
    """Of each group of values the sums of as many drawn from it with replacement, [replicates]."""
    sizes = tuple(map(len, groups))
    are_few = replicates * sum(sizes) <= _MOST_KEPT
    blocks = iter(_kept_draws(sizes, replicates, seed) if are_few else _draws(sizes, replicates, seed))
    sums: list[NDArray[np.float64]] = []
    for values in groups:
        # exact for shares of 2, 4, ... images, so that a difference of nothing is 0
        sums.append(np.concatenate([next(blocks) @ values for _ in _blocks(replicates, len(values))]))
    return sums


def _draws(sizes: Sequence[int], replicates: int, seed: int) -> Iterator[NDArray[np.int16]]:
    """How often each member of a group of n is among n that are drawn, [b, n], group by group in blocks of rows."""
    rng = np.random.default_rng(seed)
    for size in sizes:
        for rows in _blocks(replicates, size):
            chosen = rng.integers(size, size=(rows, size), dtype=np.int32)
            places = chosen + size * np.arange(rows)[:, None]
            yield np.bincount(places.ravel(), minlength=rows * size).reshape(rows, size).astype(np.int16)


@lru_cache(maxsize=2)  # all models and metrics of an evaluation have the same prompts
def _kept_draws(sizes: tuple[int, ...], replicates: int, seed: int) -> tuple[NDArray[np.int16], ...]:
    return tuple(_draws(sizes, replicates, seed))


def mean_of_tags(means: PromptMeans) -> float:
    """(1/G) sum_g mean_{p in g} m_p."""
    return float(np.mean([values.mean() for values in _by_tag(means).values()]))


@lru_cache(maxsize=64)
def tag_weights(tags: tuple[str, ...]) -> NDArray[np.float64]:
    """Each prompt's weight in the mean of the tags' means, w_p = 1/(G n_g); they sum to 1, and are read only."""
    sizes = Counter(tags)
    weights = np.array([1 / (len(sizes) * sizes[tag]) for tag in tags])
    weights.flags.writeable = False
    return weights


@lru_cache(maxsize=64)
def strata_of(tags: tuple[str, ...]) -> tuple[NDArray[np.intp], ...]:
    """The places of each tag's prompts; tags of one prompt are joined, whose variance is then too large, not too small.

    One such tag alone joins the tag with the fewest prompts. There are two prompts or more.
    """
    places = [np.flatnonzero(np.asarray(tags) == tag) for tag in sorted(set(tags))]
    several = sorted((group for group in places if len(group) > 1), key=len)
    single = [group for group in places if len(group) == 1]
    if len(single) == 1:
        single.append(several.pop(0))
    if single:
        several.append(np.concatenate(single))
    return tuple(several)


def sign_flip(differences: PromptMeans, *, flips: int = REPLICATES, seed: int = 0) -> float:
    """Two-sided paired permutation test: under the null, each prompt's mean difference d_p may as well be -d_p.

    T(s) = sum_p w_p s_p d_p with w_p = 1/(G n_g), the overall difference under signs s;
    p = (1 + #{k: |T(s_k)| >= |T(1)|}) / (1 + flips), never zero.
    """
    rng = np.random.default_rng(seed)
    terms = tag_weights(differences.tags) * differences.values
    least = abs(terms.sum()) - 1e-12 * np.abs(terms).sum()  # the same sum in another order is a tie
    extreme = 0
    for rows in _blocks(flips, len(terms)):
        signs = 2.0 * rng.integers(2, size=(rows, len(terms)), dtype=np.int8) - 1.0
        extreme += int(np.count_nonzero(np.abs(signs @ terms) >= least))
    return (1 + extreme) / (1 + flips)


def wins(a: NDArray[np.float64], b: NDArray[np.float64], tolerance: float = 0.0) -> NDArray[np.float64]:
    """Per image, 1 where a > b, 0 where a < b, and 1/2 for a tie, |a - b| <= tolerance."""
    difference = a - b
    return np.where(np.abs(difference) <= tolerance, 0.5, (difference > 0).astype(np.float64))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the given order:  p~_(i) = max_{j <= i} min(1, (m - j + 1) p_(j))."""
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def _by_tag(means: PromptMeans) -> dict[str, NDArray[np.float64]]:
    if not means.tags:
        raise ValueError("no prompts to average")
    tags = np.asarray(means.tags)
    return {tag: means.values[tags == tag] for tag in sorted(set(means.tags))}


def _blocks(rows: int, columns: int) -> Iterator[int]:
    """Cut rows into blocks of matrices that fit in memory."""
    step = max(1, _LARGEST_MATRIX // columns)
    for first in range(0, rows, step):
        yield min(step, rows - first)


def _percentiles(value: float, replicates: NDArray[np.float64], level: float) -> Interval:
    low, high = np.quantile(replicates, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high))
