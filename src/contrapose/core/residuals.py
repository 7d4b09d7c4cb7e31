"""How far predictions are from truths: (3) of the objective, from the residuals truth - prediction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from contrapose.core.reward import at_least_single, mean_huber, mean_square

if TYPE_CHECKING:
    from jaxtyping import Float


def errors(
    truths: Sequence[Float[Tensor, "b ..."]],
    answers: Sequence[Float[Tensor, "b ..."]],
    weights: Float[Tensor, "b ..."] | None,
    huber: float | None,
) -> Float[Tensor, "b n"]:
    """mse(truth, answer), or Huber's distance where it has a scale, side by side."""
    of_sides = []
    for truth, answer in zip(truths, answers, strict=True):
        difference = truth - answer
        error = mean_square(difference, weights) if huber is None else mean_huber(difference, huber, weights)
        of_sides.append(error)
    return torch.stack(of_sides, 1)


# Without gradient: the overlap couples two sides' predictions, so that a gradient through it could not be taken one
# side at a time (6). Guards, which read it, take it as a number.
@torch.no_grad()
def overlap(
    truths: Sequence[Float[Tensor, "b ..."]],
    answers: Sequence[Float[Tensor, "b ..."]],
    weights: Float[Tensor, "b ..."] | None,
) -> Float[Tensor, "b n n"]:
    """The mean over elements of the product of each two sides' residuals, truth - answer, weighted as errors are."""
    residuals = [at_least_single(truth - answer) for truth, answer in zip(truths, answers, strict=True)]
    # [b, n, d] with d elements a sample; the product [b, n, n] has T on its diagonal
    flat = torch.stack(residuals, 1).flatten(2)
    weighted = flat
    if weights is not None:
        weighted = flat * weights.expand_as(residuals[0]).flatten(1)[:, None]
    return weighted @ flat.mT / flat.shape[2]
