"""Distances of sets against closed forms, scipy's own matrix root, and formulas of other tools written out."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from scipy import linalg

from contrapose.errors import UserError
from contrapose.evaluate.sets.coverage import inception_score, precision_and_recall
from contrapose.evaluate.sets.distances import FeatureMoments, cmmd, fid, fid_to, kid, moments, squared_distances
from contrapose.evaluate.sets.within import diversity, drift, vendi_score

RNG = np.random.default_rng


def unit(features: np.ndarray) -> np.ndarray:
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def gaussian(seed: int, count: int, dims: int = 8, shift: float = 0.0, scale: float = 1.0) -> np.ndarray:
    return RNG(seed).normal(shift, scale, (count, dims))


def test_fid_of_gaussians_is_the_analytic_one() -> None:
    """|m|^2 + d (s - 1)^2 where the covariances are 1 and s^2 times the identity."""
    dims = 6
    a = FeatureMoments(np.zeros(dims), np.eye(dims))
    b = FeatureMoments(np.full(dims, 0.5), 4 * np.eye(dims))
    assert fid(a, b) == pytest.approx(dims * 0.25 + dims * 1.0, abs=1e-12)
    assert fid(a, a) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("count", [200, 5])  # 5 images of 8 dimensions: a covariance that has no inverse
def test_fid_is_that_of_the_matrix_root(count: int) -> None:
    a, b = moments(gaussian(1, count)), moments(gaussian(2, 300, shift=0.3, scale=1.5) @ RNG(3).normal(size=(8, 8)))
    root = linalg.sqrtm(a.covariance @ b.covariance).real
    plain = ((a.mean - b.mean) ** 2).sum() + np.trace(a.covariance + b.covariance - 2 * root)
    assert fid(a, b) == pytest.approx(plain, rel=1e-6)
    assert fid(a, b) == pytest.approx(fid(b, a), rel=1e-6)


def torchmetrics_fid(real: np.ndarray, fake: np.ndarray) -> float:
    """Its formula: sums and sums of outer products in float64, and eigenvalues of the product of the covariances."""
    means, covariances = [], []
    for features in (real, fake):
        values = torch.from_numpy(features).double()
        count = len(values)
        mean = (values.sum(0) / count)[None]
        covariances.append((values.T @ values - count * mean.T @ mean) / (count - 1))
        means.append(mean[0])
    squared = (means[0] - means[1]).square().sum()
    traces = covariances[0].trace() + covariances[1].trace()
    root = torch.linalg.eigvals(covariances[0] @ covariances[1]).sqrt().real.sum()
    return float(squared + traces - 2 * root)


@pytest.mark.parametrize("count", [400, 30])  # 30 images of 48 dimensions: from the small table of images
def test_fid_is_torchmetrics_with_the_same_features(count: int) -> None:
    real = gaussian(1, 500, 48).astype(np.float32)
    fake = (gaussian(2, count, 48, shift=0.2) @ RNG(3).normal(size=(48, 48)) / 7).astype(np.float32)
    assert fid_to(moments(real), fake).value == pytest.approx(torchmetrics_fid(real, fake), rel=1e-6)


def test_fid_of_many_gaussian_features_is_near_the_analytic_one() -> None:
    a, b = gaussian(1, 40_000, 4), gaussian(2, 40_000, 4, shift=0.5, scale=2.0)
    assert fid_to(moments(a), b).value == pytest.approx(4 * 0.25 + 4 * 1.0, rel=0.03)


def test_fid_of_the_same_distribution_falls_with_the_count() -> None:
    """The bias that makes equal counts a must."""
    values = [fid(moments(gaussian(1, n, 64)), moments(gaussian(2, n, 64))) for n in (200, 800)]
    assert values[0] > 3 * values[1] > 0.1


def test_kid_is_unbiased_and_sees_a_shift() -> None:
    same = kid(gaussian(1, 400), gaussian(2, 400), num_subsets=20, subset_size=200)
    moved = kid(gaussian(1, 400), gaussian(2, 400, shift=0.5), num_subsets=20, subset_size=200)
    assert same.deviation is not None and abs(same.value) < 3 * same.deviation
    assert moved.value > 10 * abs(same.value)


def test_kid_of_three_images_by_hand() -> None:
    a, b = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), np.array([[2.0, 0.0], [0.0, 2.0], [1.0, 3.0]])

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return float((x @ y / 2 + 1) ** 3)

    pairs = [(i, j) for i in range(3) for j in range(3)]
    within = sum(kernel(s[i], s[j]) for s in (a, b) for i, j in pairs if i != j) / 6
    between = sum(kernel(a[i], b[j]) for i, j in pairs) / 9
    assert kid(a, b, num_subsets=2).value == pytest.approx(within - 2 * between)


def test_cmmd_by_hand() -> None:
    a, b = unit(RNG(1).normal(size=(5, 4))), unit(RNG(2).normal(size=(7, 4)))

    def mean_kernel(x: np.ndarray, y: np.ndarray) -> float:
        return float(np.mean([[np.exp(-((p - q) ** 2).sum() / 200) for q in y] for p in x]))

    plain = 1000 * (mean_kernel(a, a) + mean_kernel(b, b) - 2 * mean_kernel(a, b))
    assert cmmd(a, b).value == pytest.approx(plain, rel=1e-9)
    assert cmmd(a, a).value == pytest.approx(0, abs=1e-9)
    with pytest.raises(UserError, match="CLIP's unit vectors"):
        cmmd(2 * a, b)


def test_squared_distances() -> None:
    x, y = RNG(1).normal(size=(4, 3)), RNG(2).normal(size=(5, 3))
    assert np.allclose(squared_distances(x, y), ((x[:, None] - y[None]) ** 2).sum(-1))
    assert (squared_distances(x, x).diagonal() < 1e-12).all()


def shares(real: np.ndarray, generated: np.ndarray) -> tuple[float, float]:
    precision, recall = precision_and_recall(real, generated)
    return precision.value, recall.value


def test_precision_and_recall_tell_quality_from_variety() -> None:
    real = gaussian(1, 500, 4)
    narrow = gaussian(2, 500, 4, scale=0.2)
    precision, recall = shares(real, narrow)
    assert precision > 0.95 and recall < 0.6
    assert shares(narrow, real) == (recall, precision)
    assert shares(real, real) == (1.0, 1.0)
    assert shares(real, real + 100) == (0.0, 0.0)
    with pytest.raises(UserError, match="over 3 images"):
        precision_and_recall(np.ones((3, 3)), np.ones((9, 3)))


def test_inception_score_of_sure_images_is_the_number_of_classes() -> None:
    sure = np.eye(5)[np.arange(500) % 5]
    score = inception_score(sure, num_splits=1)
    assert (score.value, score.deviation) == (pytest.approx(5.0), pytest.approx(0.0))
    assert inception_score(np.full((100, 5), 0.2)).value == pytest.approx(1.0)
    with pytest.raises(UserError, match="needs 10 images"):
        inception_score(sure[:9])


def test_inception_score_by_hand() -> None:
    """exp(mean KL) of each of ten splits, in the order of numpy's old generator, as torch-fidelity has it."""
    p = RNG(1).dirichlet(np.ones(6), 43)
    order = np.random.RandomState(2020).permutation(43)
    scores = []
    for split in np.array_split(p[order], 10):
        divergences = (split * np.log(split / split.mean(0))).sum(1)
        scores.append(np.exp(divergences.mean()))
    score = inception_score(p)
    assert score.value == pytest.approx(np.mean(scores)) and score.deviation == pytest.approx(np.std(scores))


def test_diversity() -> None:
    assert diversity(np.ones((4, 3))) == pytest.approx(0)
    assert diversity(np.eye(3)) == pytest.approx(1)
    # two alike and one apart: each of the two has a copy and a stranger
    assert diversity(np.eye(3)[[0, 0, 1]]) == pytest.approx([0.5, 0.5, 1])
    features = gaussian(1, 5)
    pairs = [1 - x @ y / np.sqrt(x @ x * (y @ y)) for x, y in combinations(features, 2)]
    assert diversity(features).mean() == pytest.approx(np.mean(pairs))
    assert vendi_score(np.ones((4, 3))) == pytest.approx(1)
    assert vendi_score(np.eye(3)) == pytest.approx(3)
    assert vendi_score(np.eye(3)[[0, 0, 1, 1]]) == pytest.approx(2)
    with pytest.raises(UserError, match="at least 2"):
        diversity(np.ones((1, 3)))
    with pytest.raises(UserError, match="at least 2"):
        moments(np.ones((1, 3)))


def test_drift() -> None:
    a, b = gaussian(1, 40), gaussian(2, 40)
    assert drift(a, a) == pytest.approx(0, abs=1e-12)
    assert drift(a, 3 * a) == pytest.approx(0, abs=1e-12)
    assert drift(a, b).mean() == pytest.approx(1, abs=0.2)
    assert drift(a, -a) == pytest.approx(2)
    with pytest.raises(UserError, match="one by one"):
        drift(a, b[1:])
