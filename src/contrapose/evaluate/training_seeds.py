"""Several runs of one method as one: an interval that covers both new prompts and new training seeds.

The same of a difference of two methods, on the same prompts and each with training seeds of its own.

Single runs of one setting differ by more than prompts explain, so one run is no evidence of its method. A bootstrap of
three runs finds too little of that difference (three draws out of three hold 2/3 of the variance), so the parts of the
variance are estimated, and each is given the quantile of its own degrees of freedom.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from contrapose.errors import UserError
from contrapose.evaluate.statistics import LEVEL, Interval, TagIntervals, strata_of, tag_weights

if TYPE_CHECKING:
    from jaxtyping import Float

POWER = 0.8
SMALLEST_P = 1e-12  # no p below is told
Ends = tuple[float, float]
"""The lowest and the highest that a value can be."""
UNBOUNDED = (-math.inf, math.inf)
SHARES = (0.0, 1.0)
DIFFERENCES_OF_SHARES = (-1.0, 1.0)
_RUN = re.compile(r"([^/]+)/(0|[1-9][0-9]*)")


def check_names(names: Iterable[str]) -> None:
    """Raise `UserError` for a name with a slash that is not METHOD/SEED, and a method that is a model's name too."""
    models = set(names)
    for name in models:
        if "/" in name and not _RUN.fullmatch(name):
            raise UserError(
                f"{name}: a name with a slash is METHOD/SEED, such as ddspo/0, for one of a method's training runs"
            )
        if name.partition("/")[0] in models - {name}:
            raise UserError(f"{name}: {name.partition('/')[0]} is a model's name already; call one of them otherwise")


def runs_of_methods(models: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Of each method with two training runs or more, the models that are named METHOD/SEED, in their order."""
    runs: dict[str, list[str]] = {}
    for model in models:
        named = _RUN.fullmatch(model)
        if named:
            runs.setdefault(named[1], []).append(model)
    return {method: tuple(names) for method, names in runs.items() if len(names) > 1}


@dataclass(frozen=True)
class SeedMeans:
    """One value of each training seed and prompt, [s, p], and each prompt's tag."""

    values: Float[NDArray[np.float64], "s p"]
    tags: tuple[str, ...]
    against: Float[NDArray[np.float64], "r p"] | None = None
    """The same of another method, from whose mean over its own seeds the difference is then taken."""

    def __post_init__(self) -> None:
        for values in self.sides:
            if values.shape[1] != len(self.tags):
                raise ValueError(f"{values.shape[1]} prompts and {len(self.tags)} tags")
        num_prompts = len(self.tags)
        if num_prompts < 2:
            raise UserError("how far scores would differ with other prompts takes 2 prompts or more to tell")

    def of_tag(self, tag: str) -> SeedMeans:
        """The prompts of one tag; raises `UserError` where there is but one."""
        chosen = np.asarray(self.tags) == tag
        against = None if self.against is None else self.against[:, chosen]
        return SeedMeans(self.values[:, chosen], (tag,) * int(chosen.sum()), against)

    @property
    def sides(self) -> tuple[Float[NDArray[np.float64], "s p"], ...]:
        """The method's values, and the other one's where there is one."""
        return (self.values,) if self.against is None else (self.values, self.against)

    def mean(self) -> float:
        """The mean of the tags' means, averaged over seeds, or its difference from the other method's."""
        weights = tag_weights(self.tags)
        value = float((self.values @ weights).mean())
        return value if self.against is None else value - float((self.against @ weights).mean())


@dataclass(frozen=True)
class Variances:
    """Variances of the overall mean: by seeds and by prompts, with their degrees of freedom."""

    seeds: float
    """Of the seeds' own means, which differ on these very prompts by what seed and prompt explain together, too."""
    together: float
    """By what only a seed and a prompt together explain; `seeds` and `prompts` both contain it."""
    seeds_freedom: float
    prompts: float
    prompts_freedom: int

    def width(self, quantile: float) -> float:
        """Half the width of the interval whose ends are this quantile away; `over_seeds` has the formula."""
        from scipy.special import stdtrit  # here, since --help of every command would wait for it

        by_prompts = stdtrit(self.prompts_freedom, quantile) ** 2 * self.prompts
        if not self.seeds_freedom:
            return float(np.sqrt(by_prompts))
        of_seeds = stdtrit(self.seeds_freedom, quantile) ** 2
        both = of_seeds * max(self.seeds - self.together, 0.0) + by_prompts
        return float(np.sqrt(max(both, of_seeds * self.seeds)))


def over_seeds(means: SeedMeans, *, level: float = LEVEL, within: Ends = UNBOUNDED) -> Interval:
    """The mean of the tags' means, averaged over seeds, with its interval.

    With V_s and V_p the variances of the mean by seeds and by prompts, and V_sp that of what only the two together
    explain, which V_s and V_p both contain,

        half width^2 = max( t^2_(S-1) max(V_s - V_sp, 0) + t^2_(P-G) V_p,  t^2_(S-1) V_s ),

    t being Student's quantiles for S seeds, P prompts and G tags. The second is Student's interval over the seeds'
    means, which is exact for these very prompts: one that allows for other prompts too is never narrower. How often it
    covers the truth benchmarks/seed_intervals.py simulates. It is symmetric, and cut where values cannot be: `within`.
    Raises `UserError` for fewer than two seeds.
    """
    if any(len(values) < 2 for values in means.sides):
        raise UserError("an interval over training seeds needs runs of at least 2 seeds; 3 or more are better")
    half = variances(means).width((1 + level) / 2)
    value = means.mean()
    lowest, highest = within
    return Interval(value, max(value - half, lowest), min(value + half, highest))


def by_tag(means: SeedMeans, *, level: float = LEVEL, within: Ends = UNBOUNDED) -> TagIntervals:
    """The interval of all prompts, and of each tag that has two prompts or more; one prompt has no interval."""
    tags = {}
    for tag in sorted(set(means.tags)):
        if means.tags.count(tag) > 1:
            tags[tag] = over_seeds(means.of_tag(tag), level=level, within=within)
    return TagIntervals(over_seeds(means, level=level, within=within), tags)


def p_value(means: SeedMeans) -> float:
    """Two-sided p of the mean being 0: one minus the level of the interval of `over_seeds` that ends at 0.

    So p and interval are of one model and cannot disagree: p < 0.05 is where the 95 % interval leaves 0 out. A
    permutation of prompts' signs, as for a single run, would take the seeds at hand for all that there are.
    """
    from scipy.optimize import brentq

    value = abs(means.mean())
    parts = variances(means)

    def beyond(p: float) -> float:
        return parts.width(1 - p / 2) - value

    if value == 0 or beyond(1.0) >= 0:
        return 1.0
    if beyond(SMALLEST_P) <= 0:
        return SMALLEST_P
    return float(brentq(beyond, SMALLEST_P, 1.0, xtol=1e-13))


def smallest_difference(means: SeedMeans, *, level: float = LEVEL, power: float = POWER) -> float:
    """The true difference that these seeds and prompts would show with this power; smaller ones go unseen as a rule.

    The sum of the widths at quantiles (1 + level) / 2 and `power`. Of one seed, prompts alone are counted.
    """
    parts = variances(means)
    return parts.width((1 + level) / 2) + parts.width(power)


def variances(means: SeedMeans) -> Variances:
    """The parts of the variance of the mean; of one seed only that by prompts.

    Of a difference of two methods, prompts are the same for both, so that what they share cancels. Their seeds are
    independent draws: the parts by seeds are sums of both methods', with Welch's degrees of freedom
    (V_a + V_b)^2 / (V_a^2 / (S_a - 1) + V_b^2 / (S_b - 1)). Runs of one number are not paired: what they share, such as
    the order of the data, makes them alike if anything, and the interval too wide, not too narrow.
    """
    weights = tag_weights(means.tags)
    strata = strata_of(means.tags)
    prompts = 0.0
    for places in strata:
        count = len(places)
        by_prompt = means.values[:, places].mean(0)
        if means.against is not None:
            by_prompt = by_prompt - means.against[:, places].mean(0)
        # the stratum's part of the overall mean is the mean of these, less what all prompts share: joined tags have
        # unlike weights, which would make differences of it
        apart = count * weights[places] * (by_prompt - by_prompt.mean())
        prompts += apart.var(ddof=1) / count
    seeds: list[float] = []
    together = 0.0
    for values in means.sides:
        of_seeds, left = _by_seeds(values, weights, strata)
        seeds.append(of_seeds)
        together += left
    return Variances(
        seeds=sum(seeds),
        together=together,
        seeds_freedom=_welch(seeds, [len(values) - 1 for values in means.sides]),
        prompts=float(prompts),
        prompts_freedom=len(means.tags) - len(strata),
    )


def _by_seeds(
    means: Float[NDArray[np.float64], "s p"], weights: NDArray[np.float64], strata: Sequence[NDArray[np.intp]]
) -> tuple[float, float]:
    """`Variances.seeds` and `Variances.together` of one method; none of one seed."""
    num_seeds = len(means)
    if num_seeds < 2:
        return 0.0, 0.0
    together = 0.0
    for places in strata:
        count = len(places)
        values = count * weights[places] * means[:, places]
        # what is left of a value when its seed's mean and its prompt's mean are known
        left = values - values.mean(0) - values.mean(1, keepdims=True) + values.mean()
        together += (left**2).sum() / ((num_seeds - 1) * (count - 1)) / (count * num_seeds)
    by_seed = means @ weights
    return float(by_seed.var(ddof=1) / num_seeds), float(together)


def _welch(parts: Sequence[float], freedoms: Sequence[int]) -> float:
    """The degrees of freedom of a sum of variances, which for one variance are its own."""
    total = sum(parts)
    if len(parts) == 1 or total == 0:
        return sum(freedoms)
    return total**2 / sum(part**2 / freedom for part, freedom in zip(parts, freedoms, strict=True) if part)
