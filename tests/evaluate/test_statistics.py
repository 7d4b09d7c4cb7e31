"""Closed forms, exact enumeration and a simulation for the intervals and tests."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest

from contrapose.evaluate.statistics import (
    PromptMeans,
    bootstrap,
    holm,
    mean_of_tags,
    prompt_means,
    sign_flip,
    wins,
)


def means(values, tags) -> PromptMeans:
    return PromptMeans(np.asarray(values, dtype=np.float64), tuple(tags))


def test_prompt_means_average_images_and_keep_tags():
    got = prompt_means(np.array([1.0, 0.0, 4.0, 5.0, 6.0]), ["b", "b", "a", "a", "a"], ["x", "x", "y", "y", "y"])
    assert got.values.tolist() == [5.0, 0.5]
    assert got.tags == ("y", "x")


def test_the_overall_score_counts_each_tag_the_same():
    estimate = bootstrap(means([1, 1, 1, 1, 0], "aaaab"), replicates=100)
    assert estimate.overall.value == 0.5
    assert estimate.tags["a"].value == 1 and estimate.tags["b"].value == 0


def test_the_interval_of_a_constant_is_a_point():
    estimate = bootstrap(means([0.3] * 7, "aaaabbb"), replicates=200)
    for interval in (estimate.overall, *estimate.tags.values()):
        assert interval.low == pytest.approx(0.3) and interval.high == pytest.approx(0.3)


def test_the_interval_has_the_closed_form_width():
    values = np.random.default_rng(0).normal(size=400)
    estimate = bootstrap(means(values, ["a"] * 400))
    assert estimate.overall.high - estimate.overall.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.05)


def test_tags_are_drawn_apart_from_each_other():
    """Strata: the overall variance is the mean of two independent means', without any between-tag part."""
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(0, 1, 200), rng.normal(50, 1, 200)])
    estimate = bootstrap(means(values, ["a"] * 200 + ["b"] * 200))
    expected = np.sqrt(values[:200].var() / 200 + values[200:].var() / 200) / 2
    assert estimate.overall.high - estimate.overall.low == pytest.approx(2 * 1.96 * expected, rel=0.05)


def test_tags_of_one_prompt_are_not_known_for_certain():
    """Drawn by themselves, such tags are the same in every replicate, and an interval of them alone was a point."""
    values = np.random.default_rng(0).normal(size=300)
    tags = [f"t{number}" for number in range(300)]
    estimate = bootstrap(means(values, tags), replicates=4000)
    assert estimate.overall.high - estimate.overall.low == pytest.approx(2 * 1.96 * values.std() / 300**0.5, rel=0.06)
    assert estimate.tags["t5"].low == estimate.tags["t5"].high == pytest.approx(values[5])
    # one such tag alone joins the smallest of the others, and no longer counts as its half of the mean without a doubt
    alone = bootstrap(means([0.0, 2.0, 0.0, 2.0, 9.0], "aaaab"), replicates=4000).overall
    assert alone.value == 5 and alone.high - alone.low > 4
    # what all prompts share is no difference of prompts, although the two tags' prompts weigh otherwise
    higher = bootstrap(means([100.0, 102.0, 100.0, 102.0, 109.0], "aaaab"), replicates=4000).overall
    assert (higher.low, higher.high) == pytest.approx((alone.low + 100, alone.high + 100))
    assert bootstrap(means([0.3], "a"), replicates=10).overall.low == 0.3


@pytest.mark.slow
def test_the_interval_covers_the_truth_when_images_of_a_prompt_are_alike():
    rng = np.random.default_rng(1)
    covered, trials = 0, 2000
    tags = ["a"] * 160 + ["b"] * 80
    for trial in range(trials):
        chances = rng.beta(2, 2, size=60)  # a prompt's own success rate: four images of it are no four prompts
        images = rng.random((60, 4)) < chances[:, None]
        flat = prompt_means(images.ravel().astype(float), np.repeat(np.arange(60).astype(str), 4), tags)
        interval = bootstrap(flat, replicates=1000, seed=trial).overall
        covered += interval.low <= 0.5 <= interval.high
    assert 0.93 <= covered / trials <= 0.97


def test_bootstrap_is_seeded_and_fast():
    values = means(np.random.default_rng(0).random(320), [f"t{i % 6}" for i in range(320)])
    start = time.process_time()
    first = bootstrap(values)
    assert time.process_time() - start < 1
    assert first == bootstrap(values)
    assert first != bootstrap(values, seed=1)


def test_sign_flip_approaches_exact_enumeration():
    # One prompt is half of the score here; were all prompts to count the same, p would be .19 and not .98.
    values = [-0.5, 0.2, 0.7, 0.1, 0.4, 0.9, -0.3, 0.6]
    tags = "abbbbbbb"
    observed = abs(mean_of_tags(means(values, tags)))
    signs = itertools.product((1, -1), repeat=8)
    extreme = [abs(mean_of_tags(means(np.multiply(values, s), tags))) >= observed - 1e-12 for s in signs]
    assert sign_flip(means(values, tags), flips=40_000) == pytest.approx(np.mean(extreme), abs=0.008)


def test_sign_flip_counts_ties_and_never_says_zero():
    assert sign_flip(means([0.0] * 5, "aabbb"), flips=100) == 1.0
    assert sign_flip(means([1.0], "a"), flips=100) == 1.0
    assert sign_flip(means([1.0] * 40, "a" * 40), flips=99) == 1 / 100


def test_sign_flip_is_two_sided():
    values = np.random.default_rng(3).normal(0.2, 1, 50)
    assert sign_flip(means(values, "a" * 50)) == sign_flip(means(-values, "a" * 50))


def test_sign_flip_keeps_its_level_under_the_null():
    rng = np.random.default_rng(4)
    small = [sign_flip(means(rng.normal(size=20), "a" * 20), flips=199, seed=i) <= 0.05 for i in range(400)]
    assert 0.02 <= np.mean(small) <= 0.085


def test_a_tie_is_half_a_win():
    a, b = np.array([1.0, 2.0, 3.0, 3.1]), np.array([1.0, 1.0, 4.0, 3.0])
    assert wins(a, b).tolist() == [0.5, 1.0, 0.0, 1.0]
    assert wins(a, b, tolerance=0.2).tolist() == [0.5, 1.0, 0.0, 0.5]
    assert (wins(a, b) + wins(b, a)).tolist() == [1.0] * 4


def test_holm():
    # Sorted: .005 * 4, .01 * 3, .03 * 2, .04 * 1 -> the last may not fall below the third.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
