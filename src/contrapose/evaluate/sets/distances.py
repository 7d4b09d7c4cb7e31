"""How far two sets of images are apart, by their features alone; everything is computed in float64.

Features are [n, d], a row an image. None of these numbers compares across extractors or resizers, and FID not across n.
Each is given for the set and, where its images have groups, for the set without each group.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from contrapose.errors import UserError
from contrapose.evaluate.sets.jackknife import Groups, Varied, vary

if TYPE_CHECKING:
    from jaxtyping import Float

Features: TypeAlias = "Float[NDArray[np.floating], 'n d']"

_SUBSETS = 100  # of KID, and images in each of them
_SUBSET_SIZE = 1000
_ROWS = 1024  # of a table of distances that are in memory together
_CMMD_SIGMA = 10.0
_CMMD_SCALE = 1000.0


@dataclass(frozen=True)
class FeatureMoments:
    """What FID sees of a set: mean [d] and unbiased covariance [d, d]."""

    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]

    @cached_property
    def root(self) -> NDArray[np.float64]:
        """The symmetric square root of the covariance."""
        values, vectors = np.linalg.eigh(self.covariance)
        root: NDArray[np.float64] = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
        return root


def moments(features: Features) -> FeatureMoments:
    """Mean and covariance of a set; raises `UserError` for fewer than two images."""
    if len(features) < 2:
        raise UserError(f"a set of {len(features)} images has no covariance; give at least 2")
    values = features.astype(np.float64)
    return FeatureMoments(values.mean(0), np.atleast_2d(np.cov(values, rowvar=False)))


def fid(a: FeatureMoments, b: FeatureMoments) -> float:
    """FID = |m_a - m_b|^2 + tr(C_a) + tr(C_b) - 2 tr((C_a C_b)^(1/2))  (Heusel et al. 2017, eq. 6).

    The last trace is the sum of sqrt(eigenvalues of C_a^(1/2) C_b C_a^(1/2)), a symmetric matrix, so that nothing
    becomes complex. FID falls with n for the same model (about c / n): compare sets of one size only.
    """
    eigenvalues = np.linalg.eigvalsh(a.root @ b.covariance @ a.root)
    return _frechet(a.mean - b.mean, np.trace(a.covariance) + np.trace(b.covariance), eigenvalues)


def _frechet(difference: NDArray[np.float64], traces: float, eigenvalues: NDArray[np.floating]) -> float:
    distance = difference @ difference + traces - 2 * np.sqrt(eigenvalues.clip(min=0)).sum()
    return float(max(distance, 0.0))


def fid_to(reference: FeatureMoments, features: Features, groups: Groups | None = None) -> Varied:
    """FID of a set, and without each group.

    Raises `UserError` for fewer than two images, and for features of other dimensions than the reference's.
    """
    values = features.astype(np.float64)
    if values.shape[1] != len(reference.mean):
        raise UserError(
            f"features of {values.shape[1]} dimensions do not compare with a reference of {len(reference.mean)}; make "
            "the reference anew by the same extractor"
        )
    return vary(lambda keep: _fid_of(values[keep], reference), groups, len(values))


def _fid_of(values: NDArray[np.float64], reference: FeatureMoments) -> float:
    count, dims = values.shape
    if count < 2 or count >= dims:
        return fid(reference, moments(values))
    # With X centred, X C X^T / (n - 1) is [n, n] and has the eigenvalues of C^(1/2) X^T X C^(1/2) / (n - 1) above 0.
    centred = values - values.mean(0)
    eigenvalues = np.linalg.eigvalsh(centred @ reference.covariance @ centred.T / (count - 1))
    traces = np.trace(reference.covariance) + (centred**2).sum() / (count - 1)
    return _frechet(values.mean(0) - reference.mean, traces, eigenvalues)


@dataclass(frozen=True)
class _KernelSums:
    """A kernel summed over a set, and over it and a reference; entry 0 is of all images, 1 + g without group g."""

    counts: NDArray[np.float64]
    within: NDArray[np.float64]
    """Over all x, x'."""
    diagonal: NDArray[np.float64]
    """Over all x with itself."""
    between: NDArray[np.float64]
    """Over all x, y."""


Kernel = Callable[[Features, Features], NDArray[np.float64]]
"""From rows [n, d] and [m, d] to a table [n, m]; of a set and itself it is symmetric."""


def _summed(x: Features, y: Features, kernel: Kernel, member: NDArray[np.float64]) -> _KernelSums:
    """The sums of a set x and a reference y; `member` is [n, g], 1 where an image is of a group."""
    rows_within = np.empty(len(x))
    rows_between = np.empty(len(x))
    diagonal = np.empty(len(x))
    inside = np.zeros(member.shape[1])
    for first in range(0, len(x), _ROWS):
        rows = slice(first, first + _ROWS)
        table = kernel(x[rows], x)
        rows_within[rows] = table.sum(1)
        rows_between[rows] = kernel(x[rows], y).sum(1)
        diagonal[rows] = table.diagonal(first)
        inside += ((table.T @ member[rows]) * member).sum(0)
    within = _without_each(rows_within, member)
    # a group's pairs go by their row and by their column, and those of two of its own images were taken away twice
    within[1:] += inside - rows_within @ member
    counts = _without_each(np.ones(len(x)), member)
    return _KernelSums(counts, within, _without_each(diagonal, member), _without_each(rows_between, member))


def _without_each(values: NDArray[np.float64], member: NDArray[np.float64]) -> NDArray[np.float64]:
    """The sum of all images' values, and it without those of each group: [1 + g]."""
    return np.concatenate([[values.sum()], values.sum() - values @ member])


def _members(groups: Groups | None, count: int) -> NDArray[np.float64]:
    """[n, g], 1 where an image is of a group; no columns where there are no groups."""
    if groups is None:
        return np.empty((count, 0))
    return np.eye(int(groups.max()) + 1)[groups]


def kid(
    a: Features,
    b: Features,
    groups: Groups | None = None,
    seed: int = 0,
    num_subsets: int = _SUBSETS,
    subset_size: int = _SUBSET_SIZE,
) -> Varied:
    """KID, the unbiased squared MMD under k(x, y) = (x.y / d + 1)^3 (Binkowski et al. 2018, eq. 3 and 4).

    mean of k(x, x') + mean of k(y, y') - 2 mean of k(x, y), where no image meets itself, and the mean of that over
    `num_subsets` random subsets of each set; a set that is smaller than a subset is taken whole. Without a group, the
    subsets are the same but for its images. Raises `UserError` for a set of one image.
    """
    rng = np.random.default_rng(seed)
    size = min(subset_size, len(a), len(b))
    if size < 2:
        raise UserError(f"KID of {size} images is nothing; give at least 2 of each set")
    if size == len(a) == len(b):
        num_subsets = 1  # they would all be the two sets
    member = _members(groups, len(a))
    estimates = []
    for _ in range(num_subsets):
        chosen = rng.choice(len(a), size, replace=False)
        x = a[chosen].astype(np.float64)
        y = b[rng.choice(len(b), size, replace=False)].astype(np.float64)
        sums = _summed(x, y, _cubic, member[chosen])
        of_reference = _cubic(y, y)
        within = (sums.within - sums.diagonal) / (sums.counts * (sums.counts - 1))
        apart = (of_reference.sum() - np.trace(of_reference)) / (size * (size - 1))
        estimates.append(within + apart - 2 * sums.between / (sums.counts * size))
    value, *without = np.mean(estimates, axis=0)
    deviation = None
    if num_subsets > 1:
        deviation = float(np.std([estimate[0] for estimate in estimates]))
    return Varied(float(value), np.array(without), deviation)


def _cubic(x: Features, y: Features) -> NDArray[np.float64]:
    kernel: NDArray[np.float64] = (x @ y.T / x.shape[1] + 1) ** 3
    return kernel


def cmmd(a: Features, b: Features, groups: Groups | None = None) -> Varied:
    """CMMD: 1000 times the squared MMD of unit CLIP vectors under exp(-|x - y|^2 / (2 * 10^2)).

    Jayasumana et al. 2024, "Rethinking FID". The biased estimate, as in the authors' code: each image
    also meets itself, so the number is never below 0. Raises `UserError` for vectors that are not of length 1.
    """
    for features in (a, b):
        if not np.allclose(np.linalg.norm(features, axis=1), 1, atol=1e-3):
            raise UserError("cmmd is of CLIP's unit vectors, and these features are not; use --features clip")
    sums = _summed(a, b, _gaussian, _members(groups, len(a)))
    # for what b is within itself, block by block; the second set is not looked at, and one row of it is cheap
    of_reference = _summed(b, b[:1], _gaussian, _members(None, len(b))).within[0] / len(b) ** 2
    distances = sums.within / sums.counts**2 + of_reference - 2 * sums.between / (sums.counts * len(b))
    value, *without = _CMMD_SCALE * distances
    return Varied(float(value), np.array(without))


def _gaussian(x: Features, y: Features) -> NDArray[np.float64]:
    kernel: NDArray[np.float64] = np.exp(-squared_distances(x, y) / (2 * _CMMD_SIGMA**2))
    return kernel


def squared_distances(x: Features, y: Features) -> NDArray[np.float64]:
    """|x_i - y_j|^2, never below 0 by rounding."""
    # of images that are alike the three terms nearly cancel, which float32 does not survive
    x = x.astype(np.float64)
    y = y.astype(np.float64)
    distances: NDArray[np.float64] = (x * x).sum(1)[:, None] + (y * y).sum(1)[None] - 2 * x @ y.T
    return distances.clip(min=0)
