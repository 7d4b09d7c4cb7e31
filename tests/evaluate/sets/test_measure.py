"""Metrics of sets by name: what is refused, and each number without every group as if the group had never been."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from contrapose.errors import UserError
from contrapose.evaluate.sets import coverage, distances
from contrapose.evaluate.sets.jackknife import NUM_GROUPS, Varied, groups_of, interval, over_runs
from contrapose.evaluate.sets.measure import SET_METRICS, measure
from contrapose.evaluate.sets.reference import ImageSet
from contrapose.evaluate.training_seeds import SeedMeans, over_seeds

RNG = np.random.default_rng
NUMBERS = ["fid", "kid", "cmmd", "precision", "recall", "is"]


def unit(features: np.ndarray) -> np.ndarray:
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def image_set(seed: int, count: int = 40, extractor: str = "inception-clean 1", shift: float = 0.0) -> ImageSet:
    features = unit(RNG(seed).normal(shift, 1, (count, 8))).astype(np.float32)
    classes = RNG(seed).dirichlet(np.ones(5), count).astype(np.float32)
    return ImageSet(features, classes, extractor, f"images {seed}")


def test_every_metric_has_its_number() -> None:
    model, reference = image_set(1), image_set(2, 100)
    values = measure(model, reference, list(SET_METRICS))
    assert list(values) == NUMBERS
    assert list(values) == [name for metric in SET_METRICS.values() for name in metric.higher_is_better]
    expected = distances.fid(distances.moments(model.features), distances.moments(reference.features))
    assert values["fid"].value == pytest.approx(expected, rel=1e-9) and values["fid"].deviation is None
    assert values["kid"].deviation is not None and values["is"].deviation is not None


def test_a_set_that_moves_away_has_a_larger_distance() -> None:
    reference = image_set(2, 100)
    near = measure(image_set(1), reference, ["fid", "kid", "cmmd"])
    far = measure(image_set(3, shift=2.0), reference, ["fid", "kid", "cmmd"])
    for name in ("fid", "kid", "cmmd"):
        assert far[name].value > near[name].value


def test_what_does_not_compare_is_refused() -> None:
    with pytest.raises(UserError, match="do not compare: make the reference anew"):
        measure(image_set(1), image_set(2, extractor="inception-pytorch 1"), ["fid"])
    with pytest.raises(UserError, match="fid compares with a reference"):
        measure(image_set(1), None, ["fid"])
    mute = ImageSet(image_set(1).features, None, "clip-b 1", "")
    with pytest.raises(UserError, match="needs classes, which clip-b 1 does not tell"):
        measure(mute, None, ["is"])


def test_the_inception_score_needs_no_reference() -> None:
    assert measure(image_set(1), None, ["is"])["is"].value > 1


@pytest.mark.parametrize("count", [9, 60])  # fewer images than dimensions, and more
def test_without_a_group_is_the_number_of_the_others(count: int) -> None:
    """Of sets that are no larger than a subset, each number is that of a set which never had the group."""
    model, reference = image_set(1, count), image_set(2, 30)
    groups = np.arange(count) % 4
    values = measure(model, reference, ["fid", "kid", "cmmd", "precision-recall"], groups)
    without = measure(
        ImageSet(model.features[groups != 2], None, model.extractor, ""), reference, ["fid", "cmmd", "precision-recall"]
    )
    for name, value in without.items():
        assert len(values[name].without) == 4
        assert values[name].without[2] == pytest.approx(value.value, rel=1e-9), name


def test_kid_without_a_group() -> None:
    """By hand, where the reference is as many images, so that both sets are taken whole."""
    model, reference = image_set(1, 40).features.astype(float), image_set(2, 40).features.astype(float)
    groups = np.arange(40) % 5
    x = model[groups != 3]

    def apart(a: np.ndarray) -> float:
        table = (a @ a.T / 8 + 1) ** 3
        return float((table.sum() - np.trace(table)) / (len(a) * (len(a) - 1)))

    plain = apart(x) + apart(reference) - 2 * float(((x @ reference.T / 8 + 1) ** 3).mean())
    assert distances.kid(model, reference, groups).without[3] == pytest.approx(plain, rel=1e-9)


def test_inception_score_without_a_group_keeps_the_splits() -> None:
    p = RNG(1).dirichlet(np.ones(6), 40)
    groups = np.arange(40) % 5
    order = np.random.RandomState(2020).permutation(40)
    scores = []
    for split in np.array_split(order, 10):
        rows = p[split[groups[split] != 1]]
        scores.append(np.exp((rows * np.log(rows / rows.mean(0))).sum(1).mean()))
    assert coverage.inception_score(p, groups).without[1] == pytest.approx(np.mean(scores))


def test_groups_are_whole_prompts_and_every_tag_is_spread_over_them() -> None:
    prompts = [f"{number:03}" for number in range(100) for _ in range(2)]
    tags = ["colors" if int(name) < 60 else "counting" for name in prompts]
    groups = groups_of(prompts, tags)
    assert groups is not None and groups.max() + 1 == NUM_GROUPS
    assert (np.bincount(groups) == 10).all()
    assert (groups[::2] == groups[1::2]).all()
    assert (np.bincount(groups[np.array(tags) == "colors"]) == 6).all()
    assert groups_of(prompts, tags) == pytest.approx(groups)
    few = groups_of(["a", "b", "c"], ["x", "x", "x"])
    assert few is not None and sorted(few) == [0, 1, 2]
    assert groups_of(["a", "a", "b"], ["x", "x", "x"]) is None


def mean_of(values: np.ndarray, groups: np.ndarray) -> Varied:
    return Varied(values.mean(), np.array([values[groups != group].mean() for group in range(groups.max() + 1)]))


def test_the_interval_of_a_mean_is_students_of_its_groups() -> None:
    """With groups of one size, the jackknife of a mean is the variance of the groups' means."""
    values = RNG(1).normal(3, 2, 60)
    groups = np.arange(60) % 12
    shown = interval(mean_of(values, groups), groups)
    means = np.array([values[groups == group].mean() for group in range(12)])
    half = 2.200985 * means.std(ddof=1) / np.sqrt(12)  # Student's 97.5 % at 11 degrees of freedom
    assert shown is not None
    assert (shown.low, shown.value, shown.high) == pytest.approx(
        (values.mean() - half, values.mean(), values.mean() + half), rel=1e-6
    )


def test_groups_of_unequal_size_add_no_width_by_their_bias() -> None:
    """Of a number that is c / n alone, nothing varies over prompts, however unequal the groups are."""
    groups = np.repeat([0, 1, 2, 3], [1, 5, 9, 25])
    biased = Varied(7 / 40, np.array([7 / (40 - size) for size in (1, 5, 9, 25)]))
    shown = interval(biased, groups)
    assert shown is not None and shown.high - shown.low == pytest.approx(0, abs=1e-12)


def test_a_mean_over_runs_has_the_interval_of_scores() -> None:
    """Of a number that is a mean over prompts, with a prompt a group, it is `over_seeds` itself."""
    rng = RNG(2)
    values = rng.normal(size=(3, 1)) + rng.normal(size=(1, 15)) + rng.normal(size=(3, 15))
    runs = [mean_of(run, np.arange(15)) for run in values]
    shown = over_runs(runs, np.arange(15))
    of_scores = over_seeds(SeedMeans(values, ("all",) * 15))
    assert shown is not None
    assert (shown.value, shown.low, shown.high) == pytest.approx((of_scores.value, of_scores.low, of_scores.high))
    one = interval(runs[0], np.arange(15))
    assert one is not None and one.high - one.low < shown.high - shown.low


def test_no_groups_no_interval() -> None:
    assert interval(Varied(1.0, np.empty(0)), None) is None
    assert interval(Varied(1.0, np.empty(0)), np.arange(3)) is None


def covered(number_of: Callable[[np.ndarray, np.ndarray], Varied], experiments: int) -> float:
    """How often the interval holds the mean over experiments; prompts have effects that their images share."""
    groups = groups_of([str(prompt) for prompt in range(60) for _ in range(2)], ["all"] * 120)
    assert groups is not None
    shown = []
    for experiment in range(experiments):
        rng = RNG([7, experiment])
        features = rng.normal(size=(60, 1, 6)) + rng.normal(size=(60, 2, 6))
        shown.append(interval(number_of(features.reshape(120, 6), groups), groups))
    truth = np.mean([each.value for each in shown if each])
    return float(np.mean([each.low <= truth <= each.high for each in shown if each]))


def test_the_interval_of_fid_covers_its_mean() -> None:
    reference = distances.moments(RNG(1).normal(size=(2000, 6)))
    share = covered(lambda features, groups: distances.fid_to(reference, features, groups), 300)
    assert 0.90 < share < 0.98
