"""Running numbers: means that are carried from one optimiser step to the next, instead of means over a micro-batch.

A link that needs a mean over the batch (a baseline, a scale) gets the one of the steps before. So it is the same for
every group of a step, however the step's batch is cut over micro-batches and processes, and a checkpoint keeps it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from contrapose.core.measured import Measured

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class Running:
    """z' = decay z + (1 - decay) mean(of(measured)), the mean over all groups of an optimiser step."""

    of: Callable[[Measured], Float[Tensor, " b"]]
    """What is followed: a number a group."""
    decay: float
    """Share of the old number that is kept, 0 to 1."""
    start: float = 0.0
    """The number before the first step."""


class RunningNumbers:
    """The numbers as they stand: a part of the training state."""

    def __init__(self, followed: Mapping[str, Running]):
        self._followed = followed
        self.values = {name: running.start for name, running in followed.items()}

    def update(self, means: Mapping[str, float]) -> None:
        """Take in one optimiser step's means, by name."""
        for name, running in self._followed.items():
            self.values[name] = running.decay * self.values[name] + (1 - running.decay) * means[name]

    def state(self) -> dict[str, Tensor]:
        """Every number, in double precision."""
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in self.values.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Put numbers back that `state` gave."""
        self.values = {name: float(state[name]) for name in self._followed}
