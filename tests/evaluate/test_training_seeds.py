"""Intervals over training seeds and prompts: coverage in simulated experiments, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from contrapose.errors import UserError
from contrapose.evaluate.training_seeds import SeedMeans, over_seeds, smallest_difference

TAGS = tuple(str(number % 6) for number in range(120))


def experiment(
    rng: np.random.Generator, seeds: float, prompts: float, both: float, num_seeds: int, truth: float = 0.0
) -> SeedMeans:
    """Differences whose deviation by seed, by prompt and by both is given."""
    shape = (num_seeds, len(TAGS))
    values = truth + seeds * rng.normal(size=(num_seeds, 1)) + prompts * rng.normal(size=(1, len(TAGS)))
    return SeedMeans(values + both * rng.normal(size=shape), TAGS)


@pytest.mark.parametrize("num_seeds", [3, 5])
@pytest.mark.parametrize(
    ("seeds", "prompts", "both"), [(0, 1, 1), (0.2, 1, 1), (0.5, 1, 1), (0.05, 0.3, 0.3), (2, 1, 1)]
)
def test_the_interval_covers_the_truth(num_seeds: int, seeds: float, prompts: float, both: float) -> None:
    rng = np.random.default_rng(num_seeds)
    covered = 0
    for _ in range(2000):
        interval = over_seeds(experiment(rng, seeds, prompts, both, num_seeds, truth=0.3))
        covered += interval.low <= 0.3 <= interval.high
    assert 0.93 <= covered / 2000 <= 0.97


def test_a_seed_that_differs_widens_the_interval() -> None:
    """What intervals over prompts alone do not see."""
    rng = np.random.default_rng(1)
    steady, moody = experiment(rng, 0.0, 1, 1, 3), experiment(rng, 0.8, 1, 1, 3)

    def width(means: SeedMeans) -> float:
        interval = over_seeds(means)
        return interval.high - interval.low

    assert width(moody) > 3 * width(steady)


def test_without_prompts_variance_it_is_students_interval_over_seeds() -> None:
    by_seed = np.array([0.1, 0.4, 0.7])
    means = SeedMeans(np.repeat(by_seed[:, None], 10, axis=1), ("a",) * 10)
    interval = over_seeds(means)
    half = stats.t.ppf(0.975, 2) * by_seed.std(ddof=1) / 3**0.5
    assert (interval.value, interval.low, interval.high) == (
        pytest.approx(0.4), pytest.approx(0.4 - half), pytest.approx(0.4 + half),
    )  # fmt: skip


def test_each_tag_counts_the_same() -> None:
    values = np.array([[1.0, 1.0, 1.0, 1.0, 0.0, 0.0]] * 2)
    assert over_seeds(SeedMeans(values, ("a",) * 4 + ("b",) * 2)).value == pytest.approx(0.5)


def test_the_smallest_difference_is_seen_as_often_as_said() -> None:
    rng = np.random.default_rng(2)
    difference = np.mean([smallest_difference(experiment(rng, 0.1, 1, 1, 5)) for _ in range(200)])
    seen = [over_seeds(experiment(rng, 0.1, 1, 1, 5, truth=float(difference))).low > 0 for _ in range(1000)]
    assert 0.72 <= np.mean(seen) <= 0.88


def test_what_gives_no_interval_is_told() -> None:
    with pytest.raises(UserError, match="at least 2 seeds"):
        SeedMeans(np.zeros((1, 4)), ("a",) * 4)
    with pytest.raises(UserError, match="2 prompts of each tag; b has one"):
        SeedMeans(np.zeros((3, 4)), ("a", "a", "a", "b"))
