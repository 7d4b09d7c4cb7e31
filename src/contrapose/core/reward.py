"""The implicit reward: the one place where beta's unit lives."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float


def mean_square(difference: Float[Tensor, "b ..."]) -> Float[Tensor, " b"]:
    """Mean over all elements of a sample; in single precision at least, also where the network computed in less."""
    return at_least_single(difference).square().flatten(1).mean(1)


def at_least_single(values: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
    """float32, or float64 where the values are that already."""
    return values if values.dtype == torch.float64 else values.float()


def implicit_reward(
    beta: float, trainee_error: Float[Tensor, "b n"], reference_error: Float[Tensor, "b n"] | None
) -> Float[Tensor, "b n"]:
    """r = (beta / 2) (mse(truth, reference) - mse(truth, trainee)): how much better the trainee explains the truth.

    `beta` has the unit of Diffusion-DPO's released code: it multiplies HALF the MEAN-per-element error difference.
    (Papers write -beta [...] with a sum; every published value, 5000, 16000, 2000, means this one.)
    Without a reference the first term is dropped.
    """
    if reference_error is None:
        return -0.5 * beta * trainee_error
    return 0.5 * beta * (reference_error - trainee_error)
