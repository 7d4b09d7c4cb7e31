"""A batch of comparisons, and how one is composed of records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from jaxtyping import Float
from torch import Tensor

Condition = Mapping[str, Tensor]  # what a backbone made of prompts: named tensors with one leading row a prompt


@dataclass(frozen=True, eq=False)
class Group:
    """`b` prompts with the `m` samples that are compared under each, and labels for the `n` sides of the comparison.

    Time and noise are shared inside a group. `prompts` holds the named prompt slots (`prompt`, `degraded`).
    """

    latents: Float[Tensor, "b m ..."]
    prompts: Mapping[str, Condition]
    labels: Float[Tensor, "b n"]


class Pick(NamedTuple):
    """One field of a pair record: the group's own record, or another one drawn at random."""

    whose: Literal["own", "other"]
    field: Literal["winner", "loser", "prompt", "degraded"]


@dataclass(frozen=True)
class Composition:
    """What a group is made of: its samples in order, and its prompt slots."""

    latents: tuple[Pick, ...] = (Pick("own", "winner"), Pick("own", "loser"))
    prompts: Mapping[str, Pick] = field(default_factory=lambda: {"prompt": Pick("own", "prompt")})

    @property
    def fields(self) -> frozenset[str]:
        """The record fields that must be present."""
        return frozenset(pick.field for pick in (*self.latents, *self.prompts.values()))
