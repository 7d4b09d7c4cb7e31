"""Shares of predictions: one idea, used twice.

At inference a guidance is shares of the policies' predictions (`guidance.Guidance`); in training the truth that a side
is compared with is shares of frozen predictions (`objective.Side`).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

Key = TypeVar("Key", bound=Hashable)
Shares = Mapping[Key, float]
"""How much of each prediction enters a sum; predictions are known by policy, or by row."""


def mix(predictions: Mapping[Key, Float[Tensor, "b ..."]], shares: Shares[Key]) -> Float[Tensor, "b ..."]:
    """sum of share x prediction. One prediction alone, at a share of 1, is given back as it is, to the bit."""
    first, *rest = shares
    if not rest and shares[first] == 1.0:
        return predictions[first]
    mixed = shares[first] * predictions[first]
    for key in rest:
        mixed = mixed + shares[key] * predictions[key]
    return mixed
