"""What is under training, as weights that stock diffusers loads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from contrapose.backbones.denoiser import Trainable


class Trained:
    """The trained weights, or their average where there is one, in files that stock diffusers loads.

    Of those the state keeps the checksum alone, so that no weight is written twice.
    """

    def __init__(self, trainable: Trainable, average: Sequence[Tensor], notes: Mapping[str, str]):
        self._trainable = trainable
        self._average = average
        self.notes = notes

    def write(self, folder: Path, with_pipeline: bool) -> None:
        """Write the weights; a network that was trained in full within its pipeline, or alone."""
        with self.averaged():
            self._trainable.save(folder, self.notes, with_pipeline)

    def read(self, folder: Path) -> dict[str, Tensor]:
        """What `write` wrote, by `policy/name`."""
        policies = self._trainable.saved(folder)
        return {f"{policy}/{name}": value for policy, state in policies.items() for name, value in state.items()}

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `read` gave, as the weights and as their average."""
        states: dict[str, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            policy, _, name = key.partition("/")
            states.setdefault(policy, {})[name] = value
        for policy, state in states.items():
            self._trainable.policies.load_state(state, policy)
        for average, parameter in zip(self._average, self._trainable.policies.parameters(), strict=False):
            average.copy_(parameter)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The average in the weights' place while the block lasts, as it is saved; the weights where there is none."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        """Weights for averages and back, in place, as shards are to be; nothing where there is no average."""
        for average, parameter in zip(self._average, self._trainable.policies.parameters(), strict=False):
            weights = parameter.clone()
            parameter.copy_(average)
            average.copy_(weights)
