"""The implicit reward: the one place where beta's unit lives."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float


def mean_square(
    difference: Float[Tensor, "b ..."], weights: Float[Tensor, "b ..."] | None = None
) -> Float[Tensor, " b"]:
    """Mean over all elements of a sample; in single precision at least, also where the network computed in less.

    With `weights` of mean 1, which spread over a sample, it is the mean of weight x square.
    """
    return _weighted_mean(at_least_single(difference).square(), weights)


def mean_huber(
    difference: Float[Tensor, "b ..."], scale: float, weights: Float[Tensor, "b ..."] | None = None
) -> Float[Tensor, " b"]:
    """Mean of sqrt(d^2 + c^2) - c over all elements of a sample: |d|, but d^2 / (2 c) where it is below a scale c."""
    distances = (at_least_single(difference).square() + scale**2).sqrt() - scale
    return _weighted_mean(distances, weights)


def _weighted_mean(values: Float[Tensor, "b ..."], weights: Float[Tensor, "b ..."] | None) -> Float[Tensor, " b"]:
    """The mean over a sample's elements, by weights of mean 1 where there are some."""
    weighted = values if weights is None else values * weights
    return weighted.flatten(1).mean(1)


def element_weights(mask: Float[Tensor, "b ..."], floor: float) -> Float[Tensor, "b ..."]:
    """w = (floor + (1 - floor) mask) / its mean: what each element counts where a mask, 0 to 1, says what matters.

    As their mean is 1, a weighted mean of squares that are alike everywhere is the plain one, and beta keeps its unit.
    `floor` is above 0, so that a mask of nothing but zeros weighs all alike, as one of ones does.
    """
    # lerp meets both ends exactly: a mask of ones, or a floor of 1, gives weights of exactly 1
    weights = torch.lerp(mask.new_tensor(floor), mask.new_tensor(1.0), mask)
    mean = weights.flatten(1).mean(1)
    return weights / mean.view(-1, *[1] * (mask.ndim - 1))


def at_least_single(values: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
    """float32, or float64 where the values are that already."""
    return values if values.dtype == torch.float64 else values.float()


def implicit_reward(
    beta: float | Float[Tensor, "b 1"],
    trainee_error: Float[Tensor, "b n"],
    reference_error: Float[Tensor, "b n"] | None,
) -> Float[Tensor, "b n"]:
    """r = (beta / 2) (mse(truth, reference) - mse(truth, trainee)): how much better the trainee explains the truth.

    `beta` has the unit of Diffusion-DPO's released code: it multiplies HALF the MEAN-per-element error difference.
    (Papers write -beta [...] with a sum; every published value, 5000, 16000, 2000, means this one.)
    A group may have a beta of its own. Without a reference the first term is dropped.
    """
    if reference_error is None:
        return -0.5 * beta * trainee_error
    return 0.5 * beta * (reference_error - trainee_error)
