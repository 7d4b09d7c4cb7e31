"""Several runs of one method as one: an interval that covers both new prompts and new training seeds.

Single runs of one setting differ by more than prompts explain, so one run is no evidence of its method. A bootstrap of
three runs finds too little of that difference (three draws out of three hold 2/3 of the variance), so the parts of the
variance are estimated, and each is given the quantile of its own degrees of freedom.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy import stats

from contrapose.errors import UserError
from contrapose.evaluate.statistics import LEVEL, Interval, tag_weights

POWER = 0.8


@dataclass(frozen=True)
class SeedMeans:
    """One value of each training seed and prompt, [s, p], and each prompt's tag."""

    values: Float[NDArray[np.float64], "s p"]
    tags: tuple[str, ...]

    def __post_init__(self) -> None:
        num_seeds, num_prompts = self.values.shape
        if num_seeds < 2:
            raise UserError("an interval over training seeds needs runs of at least 2 seeds; 3 or more are better")
        if num_prompts != len(self.tags):
            raise ValueError(f"{num_prompts} prompts and {len(self.tags)} tags")
        for tag in set(self.tags):
            if self.tags.count(tag) < 2:
                raise UserError(f"an interval over training seeds needs 2 prompts of each tag; {tag} has one")


@dataclass(frozen=True)
class Variances:
    """Variances of the overall mean: by seeds and by prompts, with their degrees of freedom."""

    seeds: float
    seeds_freedom: int
    prompts: float
    prompts_freedom: int


def over_seeds(means: SeedMeans, *, level: float = LEVEL) -> Interval:
    """The mean of the tags' means, averaged over seeds, with its interval.

    With V_s and V_p the variances of the mean by seeds and by prompts, and V_sp that of what only the two together
    explain, which V_s and V_p both contain:  half width^2 = t^2_(S-1) max(V_s - V_sp, 0) + t^2_(P-G) V_p,  t being
    Student's quantiles for S seeds, P prompts and G tags. How often it covers the truth benchmarks/seed_intervals.py
    simulates.
    """
    parts = variances(means)
    half = _width(parts, (1 + level) / 2)
    value = float((means.values @ tag_weights(means.tags)).mean())
    return Interval(value, value - half, value + half)


def smallest_difference(means: SeedMeans, *, level: float = LEVEL, power: float = POWER) -> float:
    """The true difference that these seeds and prompts would show with this power; smaller ones go unseen as a rule.

    The sum of the widths at quantiles (1 + level) / 2 and `power`.
    """
    parts = variances(means)
    return _width(parts, (1 + level) / 2) + _width(parts, power)


def _width(parts: Variances, quantile: float) -> float:
    by_seeds = stats.t.ppf(quantile, parts.seeds_freedom) ** 2 * parts.seeds
    by_prompts = stats.t.ppf(quantile, parts.prompts_freedom) ** 2 * parts.prompts
    return float(np.sqrt(by_seeds + by_prompts))


def variances(means: SeedMeans) -> Variances:
    """The parts of the variance of the mean; what only a seed and a prompt together explain counts to the prompts."""
    num_seeds, num_prompts = means.values.shape
    by_seed = means.values @ tag_weights(means.tags)
    seeds = by_seed.var(ddof=1) / num_seeds
    tags = np.asarray(means.tags)
    names = sorted(set(means.tags))
    prompts = 0.0
    together = 0.0
    for name in names:
        values = means.values[:, tags == name]
        count = values.shape[1]
        by_prompt = values.mean(0)
        # what is left of a value when its seed's mean and its prompt's mean are known
        left = values - by_prompt - values.mean(1, keepdims=True) + values.mean()
        prompts += by_prompt.var(ddof=1) / count
        together += (left**2).sum() / ((num_seeds - 1) * (count - 1)) / (count * num_seeds)
    squared = len(names) ** 2
    return Variances(
        seeds=max(float(seeds - together / squared), 0.0),
        seeds_freedom=num_seeds - 1,
        prompts=prompts / squared,
        prompts_freedom=num_prompts - len(names),
    )
