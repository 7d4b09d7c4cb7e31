"""How often intervals over training seeds and prompts cover the truth, in simulated experiments.

    python benchmarks/seed_intervals.py --experiments 2000

Each experiment has normal differences by seed, by prompt and by both together. Printed beside the interval that is used
is the one by Satterthwaite's degrees of freedom, which was tried first and covers too little.
"""

from __future__ import annotations

import argparse

import numpy as np
from scipy import stats

from contrapose.evaluate.statistics import LEVEL, Interval
from contrapose.evaluate.training_seeds import SeedMeans, over_seeds, variances

TAGS = tuple(str(number % 6) for number in range(120))
DEVIATIONS = [(0, 1, 1), (0.05, 1, 1), (0.1, 1, 1), (0.2, 1, 1), (0.5, 1, 1), (2, 1, 1), (0.05, 0.1, 1), (0.1, 0.1, 1)]


def satterthwaite(means: SeedMeans) -> Interval:
    """One Student's interval for the sum of both variances."""
    parts = variances(means)
    total = parts.seeds + parts.prompts
    freedom = total**2 / (parts.seeds**2 / parts.seeds_freedom + parts.prompts**2 / parts.prompts_freedom)
    half = stats.t.ppf((1 + LEVEL) / 2, freedom) * total**0.5
    value = over_seeds(means).value
    return Interval(value, value - half, value + half)


def covered(num_seeds: int, deviations: tuple[float, float, float], experiments: int) -> tuple[float, float]:
    """Shares of experiments in which the interval that is used, and Satterthwaite's, hold the truth, which is 0."""
    seeds, prompts, both = deviations
    rng = np.random.default_rng(num_seeds)
    hits = np.zeros(2)
    for _ in range(experiments):
        values = seeds * rng.normal(size=(num_seeds, 1)) + prompts * rng.normal(size=(1, len(TAGS)))
        means = SeedMeans(values + both * rng.normal(size=(num_seeds, len(TAGS))), TAGS)
        for place, interval in enumerate((over_seeds(means), satterthwaite(means))):
            hits[place] += interval.low <= 0 <= interval.high
    used, other = hits / experiments
    return float(used), float(other)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", type=int, default=2000)
    args = parser.parse_args(arguments)
    print("seeds  deviation by seed, prompt, both    used   Satterthwaite")
    for num_seeds in (3, 5):
        for deviations in DEVIATIONS:
            used, other = covered(num_seeds, deviations, args.experiments)
            print(f"{num_seeds:5}  {deviations!s:32}  {used:6.1%}  {other:6.1%}")


if __name__ == "__main__":
    main()
