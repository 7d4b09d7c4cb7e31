"""Any method's loss on the records of `formulas`, as its own composition asks for them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from formulas import (
    ABAR,
    DRAWS,
    LIKED,
    NOISE,
    OTHER,
    QUALITY,
    RANKS,
    RECORDS,
    SCORES,
    STEP_SCALES,
    TRAINED,
    B,
    T,
    network,
)
from torch import Tensor

from contrapose.core.compose import OwnState, compose
from contrapose.core.group import Group, OwnSteps, Pick
from contrapose.core.objective import Outcome
from contrapose.core.path import DiffusionPath
from contrapose.methods import Method


class Stored:
    """The records as a composition takes them."""

    def latent(self, pick: Pick) -> Tensor:
        field = RECORDS[pick.field]
        return field if pick.whose == "own" else field[OTHER]

    def label(self, sample: str) -> Tensor:
        if sample == "sample 1":
            return LIKED
        if sample in RANKS:
            return QUALITY[:, RANKS.index(sample)]
        return torch.full((B,), float(sample == "winner"), dtype=torch.float64)

    def scores(self, pick: Pick) -> dict[str, Tensor]:
        return {"taste": torch.tensor(SCORES[pick.field], dtype=torch.float64)} if pick.field in SCORES else {}

    def condition(self, slot: str, pick: Pick) -> dict[str, Tensor]:
        return {"embedding": self.latent(pick)}


def a_group(method: Method) -> Group:
    composition = method.composition()
    drawn = OwnState(T, RECORDS["own x0"], RECORDS["own eps"]) if composition.on_policy else None
    num = composition.num_own_draws
    draws = {name: values[:, :num] for name, values in DRAWS.items()} if num else None
    group = compose(composition, Stored(), T, NOISE, drawn, draws)
    takes_steps = isinstance(composition.own_groups, OwnSteps)
    return replace(group, reward_scale=STEP_SCALES) if takes_steps else group


def evaluate(
    method: Method, split: bool = False, running: dict[str, float] | None = None
) -> tuple[Outcome, list[tuple[str, int]]]:
    """The method's loss on the records as its own composition asks, with an account of the calls."""
    calls: list[tuple[str, int]] = []

    def predict(policy, x_t, t, condition):
        calls.append((policy, len(x_t)))
        return network(policy, x_t, t, condition["embedding"])

    objective = replace(method.objective(), split=split)
    return objective(a_group(method), DiffusionPath(ABAR), "eps", predict, running), calls


def gradient_of(losses: Iterable[Tensor]) -> float:
    return float(torch.autograd.grad(sum(loss.sum() for loss in losses), TRAINED["trainee"])[0])
