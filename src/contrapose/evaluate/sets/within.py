"""How much the images of one prompt differ among themselves, and from the base's: numbers of single images.

They say how a model draws and not how well, so that neither direction is the better one: a model whose images of a
prompt have become one image has lost diversity, and so has one that draws the prompt and nothing else.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from contrapose.errors import UserError
from contrapose.evaluate.sets.distances import Features


def diversity(features: Features) -> NDArray[np.float64]:
    """Of each of one prompt's images, the mean of 1 - cos to the others: 0 is one image again and again.

    Their mean is the mean over all pairs. Raises `UserError` for fewer than two images.
    """
    if len(features) < 2:
        raise UserError("diversity within a prompt needs at least 2 images of it")
    unit = _unit(features)
    cosines = unit @ unit.T
    to_others = cosines.sum(1) - cosines.diagonal()
    apart: NDArray[np.float64] = 1 - to_others / (len(unit) - 1)
    return apart.clip(min=0)  # of one image twice, rounding leaves less than 0


def vendi_score(features: Features) -> float:
    """exp of the entropy of the eigenvalues of K / n, K_ij = cos(x_i, x_j): how many different images there are.

    Friedman and Dieng 2023, eq. 1: 1 where all are the same, n where no two have anything in common.
    """
    unit = _unit(features)
    values = np.linalg.eigvalsh(unit @ unit.T / len(unit))
    values = values[values > 1e-12]
    return float(np.exp(-(values * np.log(values)).sum()))


def drift(features: Features, base: Features) -> NDArray[np.float64]:
    """Of each image, 1 - cos to the base's of the same prompt and noise, which is in the same row: 0 is the same image.

    Raises `UserError` for other numbers of images.
    """
    if features.shape != base.shape:
        raise UserError("drift compares images one by one; give sets of the same prompts and seeds by one extractor")
    between = _unit(features) - _unit(base)
    # |u - v|^2 / 2 of unit vectors, which is exactly 0 for one image twice
    apart: NDArray[np.float64] = (between**2).sum(1) / 2
    return apart


def _unit(features: Features) -> NDArray[np.float64]:
    values = features.astype(np.float64)
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    unit: NDArray[np.float64] = values / np.maximum(lengths, np.finfo(np.float64).tiny)
    return unit
