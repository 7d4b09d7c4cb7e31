"""How much of a reference a set reaches, and how varied and sure its classes are: metrics that count images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from contrapose.errors import UserError
from contrapose.evaluate.sets.distances import Features, squared_distances
from contrapose.evaluate.sets.jackknife import Groups, Varied, kept, vary

if TYPE_CHECKING:
    from jaxtyping import Float

_NEIGHBOURS = 3  # of precision and recall
_ROWS = 1024  # of a table of distances that are in memory together
_SPLITS = 10  # of the inception score


def precision_and_recall(
    real: Features, generated: Features, groups: Groups | None = None, neighbours: int = _NEIGHBOURS
) -> tuple[Varied, Varied]:
    """The share of generated images near a real one, and of real images near a generated one.

    Near is within the distance to a point's own k-th neighbour in its own set (Kynkaanniemi et al. 2019, eq. 1 to 3).
    `groups` are those of the generated images. Raises `UserError` for sets that have no k-th neighbour.
    """
    for features in (real, generated):
        if len(features) <= neighbours:
            raise UserError(f"precision and recall need over {neighbours} images of each set; one has {len(features)}")
    stays = np.stack(list(kept(groups, len(generated))))
    if stays.sum(1).min() <= neighbours:
        groups = None  # without one of them there is no k-th neighbour
        stays = stays[:1]
    everything = np.ones((1, len(real)), dtype=bool)
    near = _near(real, generated, everything, neighbours)[0]
    precision = vary(lambda keep: float(near[keep].mean()), groups, len(generated))
    recall, *without = _near(generated, real, stays, neighbours).mean(1)
    return precision, Varied(float(recall), np.array(without))


def _near(
    centres: Features, points: Features, stays: NDArray[np.bool_], neighbours: int
) -> Float[NDArray[np.bool_], "v n"]:
    """Which points lie in the ball of at least one centre, for each choice of centres that stay [v, c]."""
    radii = np.empty(stays.shape)
    for first in range(0, len(centres), _ROWS):
        rows = slice(first, first + _ROWS)
        distances = squared_distances(centres[rows], centres)
        for choice, keep in enumerate(stays):
            # place 0 is the point itself
            radii[choice, rows] = np.partition(distances[:, keep], neighbours, axis=1)[:, neighbours]
    radii[~stays] = -1  # in the ball of a centre that goes lies nothing
    near = np.empty((len(stays), len(points)), dtype=bool)
    for first in range(0, len(points), _ROWS):
        rows = slice(first, first + _ROWS)
        distances = squared_distances(points[rows], centres)
        for choice, within in enumerate(radii):
            near[choice, rows] = (distances <= within).any(1)
    return near


def inception_score(
    probabilities: Float[NDArray[np.floating], "n c"],
    groups: Groups | None = None,
    num_splits: int = _SPLITS,
    seed: int = 2020,
) -> Varied:
    """IS = exp(mean over images of KL(p(y|x) | p(y))), mean over splits of the set (Salimans et al. 2016).

    The order is shuffled once by `seed`, as torch-fidelity does; without a group, the splits are the same but for its
    images. Raises `UserError` for fewer images than splits.
    """
    count = len(probabilities)
    if count < num_splits:
        raise UserError(f"the inception score needs {num_splits} images, one a split; there are {count}")
    p = probabilities.astype(np.float64)
    splits = np.array_split(np.random.RandomState(seed).permutation(count), num_splits)
    # 0 log 0 is 0: a class that an image cannot be adds nothing
    negative_entropies = np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0.0).sum(1)

    def scores(keep: NDArray[np.bool_]) -> list[float]:
        """Mean KL is the mean of sum p log p less sum m log m of the marginal m."""
        of_split = []
        for split in splits:
            staying = split[keep[split]]
            if len(staying):  # a small split may be of one group alone
                marginal = p[staying].mean(0)
                seen = marginal[marginal > 0]
                of_split.append(float(np.exp(negative_entropies[staying].mean() - (seen * np.log(seen)).sum())))
        return of_split

    varied = vary(lambda keep: float(np.mean(scores(keep))), groups, count)
    return Varied(varied.value, varied.without, float(np.std(scores(np.ones(count, dtype=bool)))))
