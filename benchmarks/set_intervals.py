"""How often intervals of FID and KID over prompts cover their mean, in simulated experiments.

    python benchmarks/set_intervals.py --experiments 2000

Features are normal; those of one prompt share half of their variance, and two models draw from the same noise. The mean
over all experiments stands for the truth, the bias of that many images included, since FID of other prompts would have
it too. Printed beside the jackknife that is used is the percentile bootstrap over prompts, which was tried.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from contrapose.evaluate.sets.distances import fid_to, kid, moments
from contrapose.evaluate.sets.jackknife import Varied, groups_of, interval

Features = NDArray[np.float64]
CASES = [(8, 100, 2), (32, 100, 2), (32, 400, 1), (64, 100, 2), (64, 50, 1)]
"""Dimensions, prompts, images of each."""
REPLICATES = 200


def models(rng: np.random.Generator, dims: int, num_prompts: int, num_images: int) -> tuple[Features, Features]:
    """Features [prompts, images, dims] of a base, and of a model that has moved from it."""
    by_prompt = rng.normal(size=(num_prompts, 1, dims))
    base = (by_prompt + rng.normal(size=(num_prompts, num_images, dims))) / 2**0.5
    moved = base * np.linspace(0.7, 1.4, dims) + 0.15 + 0.3 * rng.normal(size=base.shape)
    return base, moved


def bootstrapped(features: Features, measure: Callable[[Features], float], rng: np.random.Generator) -> Features:
    """The quantiles of the number over draws of prompts with replacement."""
    values = []
    for _ in range(REPLICATES):
        drawn = features[rng.integers(len(features), size=len(features))]
        values.append(measure(drawn.reshape(-1, features.shape[-1])))
    return np.quantile(values, [0.025, 0.975])


def simulate(name: str, dims: int, num_prompts: int, num_images: int, experiments: int) -> str:
    """One line: how often the intervals of a number, of a difference and of the bootstrap hold the mean."""
    rng = np.random.default_rng([dims, num_prompts, num_images])
    reference = rng.normal(size=(2000, dims))
    of_reference = moments(reference)

    def number(features: Features) -> Varied:
        flat = features.reshape(-1, dims)
        return fid_to(of_reference, flat, groups) if name == "fid" else kid(flat, reference, groups, num_subsets=10)

    def fid_alone(flat: Features) -> float:
        return fid_to(of_reference, flat).value

    prompts = [f"{prompt:04}" for prompt in range(num_prompts) for _ in range(num_images)]
    groups = groups_of(prompts, ["all"] * len(prompts))
    values = []
    gains = []
    percentiles = []
    for experiment in range(experiments):
        base, moved = models(rng, dims, num_prompts, num_images)
        of_moved = number(moved)
        values.append(interval(of_moved, groups))
        gains.append(interval(of_moved.minus(number(base)), groups))
        if name == "fid" and experiment < experiments // 10:
            percentiles.append(bootstrapped(moved, fid_alone, rng))
    shares = []
    for intervals in (values, gains):
        truth = np.mean([each.value for each in intervals])
        shares.append(np.mean([each.low <= truth <= each.high for each in intervals]))
    line = f"{name} {dims:4} {num_prompts:4} x {num_images}  {shares[0]:7.1%} {shares[1]:7.1%}"
    if percentiles:
        truth = np.mean([each.value for each in values])
        line += f" {np.mean([low <= truth <= high for low, high in percentiles]):7.1%}"
    return line


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", type=int, default=2000)
    arguments = parser.parse_args()
    print("     dims prompts    value  difference  bootstrap of the value")
    for case in CASES:
        for metric in ("fid", "kid"):
            print(simulate(metric, *case, arguments.experiments), flush=True)
