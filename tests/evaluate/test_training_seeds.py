"""Intervals over training seeds and prompts: coverage in simulated experiments, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from contrapose.errors import UserError
from contrapose.evaluate.statistics import Interval
from contrapose.evaluate.training_seeds import (
    SMALLEST_P,
    SeedMeans,
    by_tag,
    check_names,
    over_seeds,
    p_value,
    runs_of_methods,
    smallest_difference,
)

NUM_EXPERIMENTS = 1000  # benchmarks/seed_intervals.py goes through more
TAGS = tuple(str(number % 6) for number in range(120))


def experiment(
    rng: np.random.Generator, seeds: float, prompts: float, both: float, num_seeds: int, truth: float = 0.0
) -> SeedMeans:
    """Differences whose deviation by seed, by prompt and by both is given."""
    shape = (num_seeds, len(TAGS))
    values = truth + seeds * rng.normal(size=(num_seeds, 1)) + prompts * rng.normal(size=(1, len(TAGS)))
    return SeedMeans(values + both * rng.normal(size=shape), TAGS)


def coverage(num_seeds: int, seeds: float, prompts: float, both: float) -> float:
    rng = np.random.default_rng(num_seeds)
    covered = 0
    for _ in range(NUM_EXPERIMENTS):
        interval = over_seeds(experiment(rng, seeds, prompts, both, num_seeds, truth=0.3))
        covered += interval.low <= 0.3 <= interval.high
    return covered / NUM_EXPERIMENTS


@pytest.mark.slow
@pytest.mark.parametrize("num_seeds", [3, 5])
@pytest.mark.parametrize(
    ("seeds", "prompts", "both"), [(0.05, 1, 1), (0.2, 1, 1), (0.5, 1, 1), (0.05, 0.3, 0.3), (2, 1, 1), (0.2, 0.1, 1)]
)
def test_the_interval_covers_the_truth(num_seeds: int, seeds: float, prompts: float, both: float) -> None:
    assert 0.93 <= coverage(num_seeds, seeds, prompts, both) <= 0.97


@pytest.mark.slow
def test_where_seeds_hardly_differ_the_interval_errs_to_the_wide_side() -> None:
    assert coverage(2, 0.1, 1, 1) >= 0.95
    assert coverage(3, 0.05, 0.1, 1) >= 0.95


def difference(
    rng: np.random.Generator, sizes: tuple[int, int], seeds: float, prompts: float, both: float, alike: float = 0.0
) -> SeedMeans:
    """Two methods that do not differ but by prompt; `alike` is the correlation of their runs of one seed."""
    first, second = (rng.normal(size=(size, 1)) for size in sizes)
    if alike:
        second = alike * first + (1 - alike**2) ** 0.5 * second
    by_prompt = prompts * rng.normal(size=(1, len(TAGS)))
    sides = [seeds * of_seeds + both * rng.normal(size=(len(of_seeds), len(TAGS))) for of_seeds in (first, second)]
    return SeedMeans(sides[0] + by_prompt, TAGS, sides[1])


def coverage_of_difference(sizes: tuple[int, int], *deviations: float, alike: float = 0.0) -> float:
    rng = np.random.default_rng(sizes[0])
    intervals = [over_seeds(difference(rng, sizes, *deviations, alike=alike)) for _ in range(NUM_EXPERIMENTS)]
    return float(np.mean([interval.low <= 0 <= interval.high for interval in intervals]))


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(3, 3), (5, 3)])
@pytest.mark.parametrize("deviations", [(0.05, 1, 1), (0.2, 1, 1), (0.5, 1, 1), (2, 1, 1), (0.2, 0.1, 1)])
def test_the_interval_of_two_methods_covers_the_truth(
    sizes: tuple[int, int], deviations: tuple[float, float, float]
) -> None:
    assert 0.93 <= coverage_of_difference(sizes, *deviations) <= 0.975


@pytest.mark.slow
def test_what_runs_of_one_seed_share_makes_the_interval_of_two_methods_too_wide_and_not_too_narrow() -> None:
    assert coverage_of_difference((3, 3), 0.5, 1, 1, alike=0.5) >= 0.95
    assert coverage_of_difference((2, 2), 0.1, 1, 1) >= 0.95


def test_a_difference_of_two_methods_is_what_it_is_from_either_side() -> None:
    means = difference(np.random.default_rng(4), (3, 4), 0.3, 1, 1)
    assert means.against is not None
    there = over_seeds(means)
    back = over_seeds(SeedMeans(means.against, TAGS, means.values))
    assert (back.value, back.low, back.high) == pytest.approx((-there.value, -there.high, -there.low))
    assert there.value == pytest.approx(over_seeds(SeedMeans(means.values, TAGS)).value - means.against.mean())


def test_without_prompts_variance_a_difference_of_two_methods_has_welchs_interval() -> None:
    first, second = np.array([0.1, 0.4, 0.7]), np.array([0.0, 0.1, 0.1, 0.3])
    means = SeedMeans(np.repeat(first[:, None], 8, 1), ("a",) * 8, np.repeat(second[:, None], 8, 1))
    welch = stats.ttest_ind(first, second, equal_var=False)
    low, high = welch.confidence_interval(0.95)
    interval = over_seeds(means)
    assert (interval.low, interval.high) == (pytest.approx(low), pytest.approx(high))
    assert p_value(means) == pytest.approx(welch.pvalue)


def test_a_method_of_one_seed_has_no_interval_against_another() -> None:
    with pytest.raises(UserError, match="at least 2 seeds"):
        over_seeds(SeedMeans(np.zeros((3, 4)), ("a",) * 4, np.zeros((1, 4))))


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


def test_an_interval_is_cut_where_values_cannot_be() -> None:
    means = SeedMeans(np.array([[0.9, 1.0, 0.8, 1.0], [0.0, 0.1, 0.0, 0.0]]), ("a", "a", "b", "b"))
    free = over_seeds(means)
    assert free.low < 0 and free.high > 1
    cut = by_tag(means, within=(0.0, 1.0))
    assert cut.overall == Interval(free.value, 0.0, 1.0)
    assert all(0 <= interval.low <= interval.high <= 1 for interval in cut.tags.values())


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
        over_seeds(SeedMeans(np.zeros((1, 4)), ("a",) * 4))
    with pytest.raises(UserError, match="2 prompts or more"):
        SeedMeans(np.zeros((3, 1)), ("a",))


@pytest.mark.parametrize("tags", ["aabbbc", "abcdef", "aaabcd", "abbbbb"])
def test_tags_of_one_prompt_err_to_the_wide_side(tags: str) -> None:
    """Their variance cannot be told from one value, so that they are taken together."""
    rng = np.random.default_rng(3)
    means = [SeedMeans(rng.normal(size=(3, 6)) + rng.normal(size=(1, 6)), tuple(tags)) for _ in range(1000)]
    intervals = [over_seeds(seeds) for seeds in means]
    assert np.mean([interval.low <= 0 <= interval.high for interval in intervals]) >= 0.94


def test_what_all_prompts_share_widens_no_interval() -> None:
    """Where a tag of one prompt is joined to a larger one their prompts weigh otherwise: a score of 140 had 277."""
    values = np.random.default_rng(0).normal(size=(3, 6))
    low, high = (over_seeds(SeedMeans(values + level, tuple("abbbbb"))) for level in (0.0, 140.0))
    assert (high.low - 140, high.high - 140) == pytest.approx((low.low, low.high))


def test_a_tag_has_an_interval_from_two_prompts_on() -> None:
    means = SeedMeans(np.random.default_rng(0).normal(size=(3, 5)), ("a", "a", "b", "b", "c"))
    assert by_tag(means).tags == {
        tag: over_seeds(SeedMeans(means.values[:, places], (tag,) * 2))
        for tag, places in (("a", [0, 1]), ("b", [2, 3]))
    }


@pytest.mark.parametrize("num_seeds", [2, 3, 5])
def test_p_is_below_5_percent_where_the_95_percent_interval_leaves_0_out(num_seeds: int) -> None:
    rng = np.random.default_rng(num_seeds)
    for truth in np.linspace(0, 0.6, 100):
        means = experiment(rng, 0.1, 1, 1, num_seeds, truth=float(truth))
        p = p_value(means)
        interval = over_seeds(means, level=1 - p)
        assert min(abs(interval.low), abs(interval.high)) == pytest.approx(0, abs=1e-6)
        inside = over_seeds(means).low <= 0 <= over_seeds(means).high
        assert inside == (p >= 0.05)


def test_p_of_no_difference_and_of_one_without_any_variance() -> None:
    assert p_value(SeedMeans(np.zeros((3, 4)), ("a",) * 4)) == 1
    assert p_value(SeedMeans(np.ones((3, 4)), ("a",) * 4)) == SMALLEST_P


def test_p_is_students_where_prompts_differ_in_nothing() -> None:
    by_seed = np.array([0.1, 0.4, 0.7])
    means = SeedMeans(np.repeat(by_seed[:, None], 10, axis=1), ("a",) * 10)
    assert p_value(means) == pytest.approx(stats.ttest_1samp(by_seed, 0).pvalue)


def test_what_one_seed_shows_is_counted_over_prompts_alone() -> None:
    values = np.random.default_rng(0).normal(size=50)
    quantiles = stats.t.ppf(0.975, 49) + stats.t.ppf(0.8, 49)
    expected = quantiles * values.std(ddof=1) / 50**0.5
    assert smallest_difference(SeedMeans(values[None], ("a",) * 50)) == pytest.approx(expected)


def test_runs_of_methods() -> None:
    models = ["base", "ddspo/0", "dpo/10", "ddspo/2", "w = 1", "sft/3"]
    assert runs_of_methods(models) == {"ddspo": ("ddspo/0", "ddspo/2")}
    check_names(models)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a/b"], "a/b: a name with a slash is METHOD/SEED"),
        (["a/b/0"], "METHOD/SEED"),
        (["/0"], "METHOD/SEED"),
        (["a/"], "METHOD/SEED"),
        (["a/-1"], "METHOD/SEED"),
        (["a/01"], "METHOD/SEED"),
        (["a/0", "a"], "a/0: a is a model's name already"),
    ],
)
def test_names_that_would_be_misread_are_refused(names: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_names(names)
