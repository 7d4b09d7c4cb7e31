"""Groups from the pair store; what the n-th training position sees depends on (seed, n) alone.

Order, partner, time and noise of a position come from its own random stream, so micro-batches, accumulation and process
count change nothing, and resuming needs no more than the step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from contrapose.core.group import Composition, Condition, Group, Pick
from contrapose.core.path import Path
from contrapose.errors import UserError
from contrapose.pairs.store import PairStore, stack
from contrapose.sample.embeddings import Embeddings
from contrapose.sample.noise import random_seed


@dataclass(frozen=True, eq=False)
class Batch:
    """Groups with their times and noise."""

    group: Group
    t: Tensor
    noise: Tensor


class Groups:
    """Groups by training position."""

    def __init__(
        self, store: PairStore, composition: Composition, embeddings: Embeddings, path: Path, seed: int, holdout: int
    ):
        self.store, self.composition, self.embeddings, self.path, self.seed = store, composition, embeddings, path, seed
        self.held_out, self.training = _split(store, seed, min(holdout, len(store) // 5))
        self._pairs_up = any(p.whose == "other" for p in (*composition.latents, *composition.prompts.values()))
        if self._pairs_up and len({store.records[i].prompt for i in self.training}) < 2:
            raise UserError(f"{store.folder}: this kind of loser needs training pairs of at least two prompts")
        self._epoch: tuple[int, list[int]] = (-1, [])

    def embed_all(self) -> bool:
        """Read every prompt of the pairs, so that the text encoder can leave memory; False when they are too many."""
        fields = sorted({pick.field for pick in self.composition.prompts.values()})
        prompts = list(dict.fromkeys(getattr(record, field) for record in self.store.records for field in fields))
        if not self.embeddings.fit(len(prompts)):
            return False
        self.embeddings(prompts)
        return True

    def training_batch(self, positions: Sequence[int], device: torch.device) -> Batch:
        """The groups at these positions of the endless shuffled stream of training pairs."""
        owns = [self._record(position) for position in positions]
        return self._batch(owns, [_stream(self.seed, "position", p) for p in positions], device)

    def held_out_batch(self, level: float, device: torch.device, rows: slice) -> Batch:
        """The held-out pairs at one noise level, always with the same noise."""
        owns = self.held_out[rows]
        batch = self._batch(owns, [_stream(self.seed, "held out", own, level) for own in owns], device)
        return Batch(batch.group, self.path.at_level(level, len(owns)).to(device), batch.noise)

    def _record(self, position: int) -> int:
        epoch, offset = divmod(position, len(self.training))
        if self._epoch[0] != epoch:
            shuffled = torch.randperm(len(self.training), generator=_stream(self.seed, "epoch", epoch))
            self._epoch = (epoch, shuffled.tolist())
        return self.training[self._epoch[1][offset]]

    def _batch(self, owns: Sequence[int], streams: Sequence[torch.Generator], device: torch.device) -> Batch:
        others = [self._other(own, stream) for own, stream in zip(owns, streams, strict=True)]
        times = torch.cat([self.path.draw_times(1, stream) for stream in streams])
        latents = torch.stack([self._latents(pick, owns, others) for pick in self.composition.latents], 1)
        noise = torch.stack([torch.randn(latents.shape[2:], generator=stream) for stream in streams])
        prompts = {slot: self._condition(pick, owns, others, device) for slot, pick in self.composition.prompts.items()}
        shares = torch.tensor([self.store.records[own].preference for own in owns])
        group = Group(_send(latents, device), prompts, _send(torch.stack([shares, 1 - shares], 1), device))
        return Batch(group, _send(times, device), _send(noise, device))

    def _other(self, own: int, stream: torch.Generator) -> int:
        """A training record of another prompt, uniformly; the record itself where no method asks for another."""
        if not self._pairs_up:
            return own
        while True:
            other = self.training[int(torch.randint(len(self.training), (), generator=stream))]
            if self.store.records[other].prompt != self.store.records[own].prompt:
                return other

    def _latents(self, pick: Pick, owns: Sequence[int], others: Sequence[int]) -> Tensor:
        chosen = owns if pick.whose == "own" else others
        return stack(self.store, pick.field, chosen).float()

    def _condition(self, pick: Pick, owns: Sequence[int], others: Sequence[int], device: torch.device) -> Condition:
        chosen = owns if pick.whose == "own" else others
        condition = self.embeddings([getattr(self.store.records[index], pick.field) for index in chosen])
        return {name: _send(value, device) for name, value in condition.items()}


def _split(store: PairStore, seed: int, holdout: int) -> tuple[list[int], list[int]]:
    """Records held out and records to train on: whole prompts, until `holdout` records are out."""
    prompts = sorted({record.prompt for record in store.records})
    order = torch.randperm(len(prompts), generator=_stream(seed, "holdout")).tolist()
    by_prompt: dict[str, list[int]] = {}
    for index, record in enumerate(store.records):
        by_prompt.setdefault(record.prompt, []).append(index)
    held_out: list[int] = []
    for number in order:
        records = by_prompt[prompts[number]]
        if len(held_out) + len(records) <= holdout:
            held_out += records
    return held_out, sorted(set(range(len(store))) - set(held_out))


def _stream(*parts: object) -> torch.Generator:
    return torch.Generator().manual_seed(random_seed(*parts))


def _send(tensor: Tensor, device: torch.device) -> Tensor:
    """To the device without waiting for the work that is queued there."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
