"""How far two sets of images are apart, by their features alone; everything is computed in float64.

Features are [n, d], a row an image. None of these numbers compares across extractors or resizers, and FID not across n.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from contrapose.errors import UserError

Features = Float[NDArray[np.floating], "n d"]

_SUBSETS = 100  # of KID, and images in each of them
_SUBSET_SIZE = 1000
_NEIGHBOURS = 3  # of precision and recall
_ROWS = 1024  # of a table of distances that are in memory together
_CMMD_SIGMA = 10.0
_CMMD_SCALE = 1000.0


@dataclass(frozen=True)
class FeatureMoments:
    """What FID sees of a set: mean [d], unbiased covariance [d, d], and how many images they are of."""

    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]
    count: int


class Spread(NamedTuple):
    """Mean and standard deviation over parts of one set, which is not an interval of the model that made it."""

    mean: float
    deviation: float


def moments(features: Features) -> FeatureMoments:
    """Mean and covariance of a set; raises `UserError` for fewer than two images."""
    if len(features) < 2:
        raise UserError(f"a set of {len(features)} images has no covariance; give at least 2")
    values = features.astype(np.float64)
    return FeatureMoments(values.mean(0), np.atleast_2d(np.cov(values, rowvar=False)), len(values))


def fid(a: FeatureMoments, b: FeatureMoments) -> float:
    """FID = |m_a - m_b|^2 + tr(C_a) + tr(C_b) - 2 tr((C_a C_b)^(1/2))  (Heusel et al. 2017, eq. 6).

    The last trace is the sum of sqrt(eigenvalues of C_a^(1/2) C_b C_a^(1/2)), a symmetric matrix, so that nothing
    becomes complex. FID falls with n for the same model (about c / n): compare sets of one size only.
    """
    values, vectors = np.linalg.eigh(a.covariance)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    between = np.linalg.eigvalsh(root @ b.covariance @ root).clip(min=0)
    difference = a.mean - b.mean
    distance = difference @ difference + np.trace(a.covariance) + np.trace(b.covariance) - 2 * np.sqrt(between).sum()
    return float(max(distance, 0.0))


def kid(
    a: Features, b: Features, seed: int = 0, num_subsets: int = _SUBSETS, subset_size: int = _SUBSET_SIZE
) -> Spread:
    """KID, the unbiased squared MMD under k(x, y) = (x.y / d + 1)^3 (Binkowski et al. 2018, eq. 3 and 4).

    Over `num_subsets` random subsets of each set; a set that is smaller than a subset is taken whole.
    """
    rng = np.random.default_rng(seed)
    size = min(subset_size, len(a), len(b))
    if size < 2:
        raise UserError(f"KID of {size} images is nothing; give at least 2 of each set")
    estimates = []
    for _ in range(num_subsets):
        x = a[rng.choice(len(a), size, replace=False)].astype(np.float64)
        y = b[rng.choice(len(b), size, replace=False)].astype(np.float64)
        estimates.append(_unbiased(_cubic(x, x), _cubic(y, y), _cubic(x, y)))
    return Spread(float(np.mean(estimates)), float(np.std(estimates)))


def _cubic(x: Features, y: Features) -> NDArray[np.float64]:
    kernel: NDArray[np.float64] = (x @ y.T / x.shape[1] + 1) ** 3
    return kernel


def _unbiased(xx: NDArray[np.float64], yy: NDArray[np.float64], xy: NDArray[np.float64]) -> float:
    """mean of k(x, x') + mean of k(y, y') - 2 mean of k(x, y), where no image meets itself."""
    n = len(xx)
    m = len(yy)
    within_x = (xx.sum() - np.trace(xx)) / (n * (n - 1))
    within_y = (yy.sum() - np.trace(yy)) / (m * (m - 1))
    return float(within_x + within_y - 2 * xy.mean())


def cmmd(a: Features, b: Features) -> float:
    """CMMD: 1000 times the squared MMD of unit CLIP vectors under exp(-|x - y|^2 / (2 * 10^2)).

    Jayasumana et al. 2024, "Rethinking FID".     The biased estimate, as in the authors' code: each image
    also meets itself, so the number is never below 0.
    """
    gamma = 1 / (2 * _CMMD_SIGMA**2)
    return float(_CMMD_SCALE * (_mean_kernel(a, a, gamma) + _mean_kernel(b, b, gamma) - 2 * _mean_kernel(a, b, gamma)))


def _mean_kernel(x: Features, y: Features, gamma: float) -> float:
    total = 0.0
    for first in range(0, len(x), _ROWS):
        total += np.exp(-gamma * squared_distances(x[first : first + _ROWS], y)).sum()
    return total / (len(x) * len(y))


def squared_distances(x: Features, y: Features) -> NDArray[np.float64]:
    """|x_i - y_j|^2, never below 0 by rounding."""
    x = x.astype(np.float64)
    y = y.astype(np.float64)
    distances: NDArray[np.float64] = (x * x).sum(1)[:, None] + (y * y).sum(1)[None] - 2 * x @ y.T
    return distances.clip(min=0)


def precision_and_recall(real: Features, generated: Features, neighbours: int = _NEIGHBOURS) -> tuple[float, float]:
    """The share of generated images near a real one, and of real images near a generated one.

    Near is within the distance to a point's own k-th neighbour in its own set (Kynkaanniemi et al. 2019, eq. 1 to 3).
    Raises `UserError` for sets that have no k-th neighbour.
    """
    for features in (real, generated):
        if len(features) <= neighbours:
            raise UserError(f"precision and recall need over {neighbours} images of each set; one has {len(features)}")
    return _share_near(real, generated, neighbours), _share_near(generated, real, neighbours)


def _share_near(centres: Features, points: Features, neighbours: int) -> float:
    """The share of points that lie in the ball of at least one centre."""
    radii = np.concatenate(
        [
            # place 0 is the point itself
            np.partition(squared_distances(centres[first : first + _ROWS], centres), neighbours, axis=1)[:, neighbours]
            for first in range(0, len(centres), _ROWS)
        ]
    )
    near = [
        (squared_distances(points[first : first + _ROWS], centres) <= radii).any(1)
        for first in range(0, len(points), _ROWS)
    ]
    return float(np.concatenate(near).mean())


def inception_score(
    probabilities: Float[NDArray[np.floating], "n c"], num_splits: int = 10, seed: int = 2020
) -> Spread:
    """IS = exp(mean over images of KL(p(y|x) | p(y))), over splits of the set (Salimans et al. 2016).

    The order is shuffled once by `seed`, as torch-fidelity does. Raises `UserError` for fewer images than splits.
    """
    if len(probabilities) < num_splits:
        raise UserError(f"the inception score needs {num_splits} images, one a split; there are {len(probabilities)}")
    order = np.random.RandomState(seed).permutation(len(probabilities))
    scores = []
    for p in np.array_split(probabilities[order].astype(np.float64), num_splits):
        marginal = p.mean(0, keepdims=True)
        # 0 log 0 is 0: a class that an image cannot be adds nothing
        with np.errstate(divide="ignore", invalid="ignore"):
            terms = np.where(p > 0, p * (np.log(p) - np.log(marginal)), 0.0)
        scores.append(np.exp(terms.sum(1).mean()))
    return Spread(float(np.mean(scores)), float(np.std(scores)))


def mean_pairwise_distance(features: Features) -> float:
    """Mean of 1 - cos(x_i, x_j) over all pairs i < j of one prompt's images; 0 is one image again and again.

    Raises `UserError` for fewer than two images.
    """
    if len(features) < 2:
        raise UserError("diversity within a prompt needs at least 2 images of it")
    unit = _unit(features)
    cosines = unit @ unit.T
    n = len(unit)
    return float(1 - (cosines.sum() - np.trace(cosines)) / (n * (n - 1)))


def vendi_score(features: Features) -> float:
    """exp of the entropy of the eigenvalues of K / n, K_ij = cos(x_i, x_j): how many different images there are.

    Friedman and Dieng 2023, eq. 1: 1 where all are the same, n where no two have anything in common.
    """
    unit = _unit(features)
    values = np.linalg.eigvalsh(unit @ unit.T / len(unit))
    values = values[values > 1e-12]
    return float(np.exp(-(values * np.log(values)).sum()))


def _unit(features: Features) -> NDArray[np.float64]:
    values = features.astype(np.float64)
    unit: NDArray[np.float64] = values / np.linalg.norm(values, axis=1, keepdims=True)
    return unit
