"""How often intervals over training seeds and prompts cover the truth, in simulated experiments.

    python benchmarks/seed_intervals.py --experiments 2000

Each experiment has normal differences by seed, by prompt and by both together. Printed beside the interval that is used
are two that were tried and cover too little: by Satterthwaite's degrees of freedom, and the sum of both parts without
Student's interval over the seeds' means as the least. The last column is how often p < 0.01 where nothing differs.
Then the same of the difference of two methods, each with seeds of its own: by themselves, and with a correlation of
runs of one seed. At last the bootstrap of a single run, where its categories have few prompts.
"""

from __future__ import annotations

import argparse
from typing import NamedTuple

import numpy as np
from scipy import stats

from contrapose.evaluate.statistics import LEVEL, PromptMeans, bootstrap
from contrapose.evaluate.training_seeds import SeedMeans, Variances, over_seeds, p_value, variances

NUM_TAGS = 6
TAGS = tuple(str(number % NUM_TAGS) for number in range(120))
DEVIATIONS = [
    (0, 1, 1), (0.05, 1, 1), (0.1, 1, 1), (0.2, 1, 1), (0.5, 1, 1), (2, 1, 1),
    (0.1, 0.5, 1), (0.05, 0.1, 1), (0.1, 0.1, 1), (0.2, 0.1, 1),
]  # fmt: skip

FEW = (2, 3, 5, 10, 20, 40)  # prompts of a category
OF_TWO: list[tuple[float, float, float]] = [(0.05, 1, 1), (0.2, 1, 1), (0.5, 1, 1), (0.2, 0.1, 1)]  # of two methods


def satterthwaite(parts: Variances) -> float:
    """Half of one Student's interval for the sum of both variances."""
    seeds = max(parts.seeds - parts.together, 0.0)
    total = seeds + parts.prompts
    freedom = total**2 / (seeds**2 / parts.seeds_freedom + parts.prompts**2 / parts.prompts_freedom)
    return float(stats.t.ppf((1 + LEVEL) / 2, freedom) * total**0.5)


def sum_alone(parts: Variances) -> float:
    """Half of the interval whose squared width is the sum of both parts'."""
    by_seeds = stats.t.ppf((1 + LEVEL) / 2, parts.seeds_freedom) ** 2 * max(parts.seeds - parts.together, 0.0)
    by_prompts = stats.t.ppf((1 + LEVEL) / 2, parts.prompts_freedom) ** 2 * parts.prompts
    return float((by_seeds + by_prompts) ** 0.5)


class Shares(NamedTuple):
    """Of the experiments, those in which an interval holds the truth, which is 0, and those with p below 0.01."""

    used: float
    satterthwaite: float
    sum_alone: float
    p: float


def covered(num_seeds: int, deviations: tuple[float, float, float], experiments: int) -> Shares:
    """Simulated experiments whose deviations by seed, by prompt and by both are given."""
    seeds, prompts, both = deviations
    rng = np.random.default_rng(num_seeds)
    hits = np.zeros(4)
    for _ in range(experiments):
        values = seeds * rng.normal(size=(num_seeds, 1)) + prompts * rng.normal(size=(1, len(TAGS)))
        means = SeedMeans(values + both * rng.normal(size=(num_seeds, len(TAGS))), TAGS)
        interval = over_seeds(means)
        parts = variances(means)
        for place, half in enumerate(((interval.high - interval.low) / 2, satterthwaite(parts), sum_alone(parts))):
            hits[place] += abs(interval.value) <= half
        hits[3] += p_value(means) < 0.01
    return Shares(*(float(share) for share in hits / experiments))


class OfDifference(NamedTuple):
    """Of the experiments, those in which the interval of two methods' difference holds 0, and those with p < 0.01."""

    used: float
    p: float


def covered_difference(
    sizes: tuple[int, int], deviations: tuple[float, float, float], alike: float, experiments: int
) -> OfDifference:
    """Simulated experiments of two methods with so many seeds each, `alike` being the correlation of runs of a seed."""
    seeds, prompts, both = deviations
    rng = np.random.default_rng(sizes)
    hits = np.zeros(2)
    for _ in range(experiments):
        shared = rng.normal(size=max(sizes))
        sides = []
        for size in sizes:
            of_seeds = alike**0.5 * shared[:size] + (1 - alike) ** 0.5 * rng.normal(size=size)
            sides.append(seeds * of_seeds[:, None] + both * rng.normal(size=(size, len(TAGS))))
        means = SeedMeans(sides[0] + prompts * rng.normal(size=(1, len(TAGS))), TAGS, sides[1])
        interval = over_seeds(means)
        hits += (interval.low <= 0 <= interval.high, p_value(means) < 0.01)
    used, p = hits / experiments
    return OfDifference(float(used), float(p))


def covered_by_bootstrap(num_prompts: int, experiments: int) -> float:
    """Of simulated experiments with so many normal prompts a category, the share in which the interval holds 0."""
    rng = np.random.default_rng(num_prompts)
    tags = tuple(str(number % NUM_TAGS) for number in range(NUM_TAGS * num_prompts))
    hits = 0
    for _ in range(experiments):
        interval = bootstrap(PromptMeans(rng.normal(size=len(tags)), tags)).overall
        hits += interval.low <= 0 <= interval.high
    return hits / experiments


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", type=int, default=2000)
    args = parser.parse_args(arguments)
    print("seeds  deviation by seed, prompt, both    used   Satterthwaite  sum alone  p < 0.01")
    for num_seeds in (2, 3, 5):
        for deviations in DEVIATIONS:
            of = covered(num_seeds, deviations, args.experiments)
            row = f"{of.used:6.1%}  {of.satterthwaite:13.1%}  {of.sum_alone:9.1%}  {of.p:8.1%}"
            print(f"{num_seeds:5}  {deviations!s:32}  {row}")
    print(
        "seeds of two methods  deviation by seed, prompt, both    used  p < 0.01  used where runs of a seed are alike"
    )
    for sizes in ((2, 2), (3, 3), (5, 3)):
        for deviations in OF_TWO:
            apart = covered_difference(sizes, deviations, 0.0, args.experiments)
            alike = covered_difference(sizes, deviations, 0.5, args.experiments)
            print(f"{sizes!s:20}  {deviations!s:32}  {apart.used:6.1%}  {apart.p:8.1%}  {alike.used:6.1%}")
    print("prompts a category  bootstrap of one run")
    for num_prompts in FEW:
        print(f"{num_prompts:18}  {covered_by_bootstrap(num_prompts, args.experiments):6.1%}")


if __name__ == "__main__":
    main()
