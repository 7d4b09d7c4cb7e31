"""The replay buffer: states of the policy's own trajectories, saved with the checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Rollout:
    """One trajectory's kept states: their times [k], and the data and noise [k, ...] that were predicted there."""

    record: int
    blank: bool
    """Whether it was drawn without the prompt."""
    t: Tensor
    x0: Tensor
    eps: Tensor


class KeptState(NamedTuple):
    """One kept state of a rollout."""

    rollout: Rollout
    state: int


class Replay:
    """The latest rollouts, the newest last."""

    def __init__(self, size: int):
        self.size = size
        self.rollouts: list[Rollout] = []

    def add(self, new: Sequence[Rollout]) -> None:
        """Keep these; the oldest beyond `size` leave."""
        self.rollouts = [*self.rollouts, *new][-self.size :]

    def draw(self, generator: torch.Generator) -> KeptState:
        """A state of a rollout, both uniformly."""
        rollout = self.rollouts[int(torch.randint(len(self.rollouts), (), generator=generator))]
        return KeptState(rollout, int(torch.randint(len(rollout.t), (), generator=generator)))

    def state(self) -> dict[str, Tensor]:
        """Every rollout's tensors by its place."""
        return {
            f"{place}.{name}": torch.as_tensor(value).contiguous()
            for place, rollout in enumerate(self.rollouts)
            for name, value in vars(rollout).items()
        }

    def load(self, state: dict[str, Tensor]) -> None:
        """Put rollouts back that `state` gave."""
        places: dict[int, dict[str, Tensor]] = {}
        for key, value in state.items():
            place, _, name = key.partition(".")
            places.setdefault(int(place), {})[name] = value
        self.rollouts = []
        for _, kept in sorted(places.items()):
            rollout = Rollout(int(kept["record"]), bool(kept["blank"]), kept["t"], kept["x0"], kept["eps"])
            self.rollouts.append(rollout)
