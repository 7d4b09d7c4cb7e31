"""A batch of comparisons, and how one is composed of records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

# What a backbone made of prompts: named tensors with one leading row a prompt. Whole numbers are lengths of what is
# padded; they stay on the host, where shapes are decided.
Condition = Mapping[str, Tensor]


def join(conditions: Sequence[Condition]) -> Condition:
    """The rows of several conditions one after the other; what is shorter is padded with zeros at its end."""
    return {name: torch.cat(_padded([c[name] for c in conditions])) for name in conditions[0]}


def _padded(values: Sequence[Tensor]) -> list[Tensor]:
    if values[0].ndim < 3:
        return list(values)
    longest = max(value.shape[1] for value in values)
    return [nn.functional.pad(v, (0, 0, 0, longest - v.shape[1])) if v.shape[1] < longest else v for v in values]


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
class OnPolicy:
    """A further sample of each group, drawn by the policy `lagged` under the group's own prompt: how it is drawn.

    Of each trajectory `num_states` states are kept; its final sample is what a group gets when `renoised`, and else a
    state, as the data and the noise that the policy predicted there.
    """

    num_steps: int
    num_states: int
    num_rollouts: int  # new ones for each optimiser step
    buffer_size: int  # rollouts that are kept
    sync_every: int  # optimiser steps after which the lagged policy is the trainee again
    renoised: bool


@dataclass(frozen=True)
class Composition:
    """What a group is made of: its samples in order, and its prompt slots."""

    latents: tuple[Pick, ...] = (Pick("own", "winner"), Pick("own", "loser"))
    prompts: Mapping[str, Pick] = field(default_factory=lambda: {"prompt": Pick("own", "prompt")})
    dropout: Mapping[str, float] = field(default_factory=dict)  # how often a slot holds no prompt
    on_policy: OnPolicy | None = None

    @property
    def fields(self) -> frozenset[str]:
        """The record fields that must be present."""
        return frozenset(pick.field for pick in (*self.latents, *self.prompts.values()))
