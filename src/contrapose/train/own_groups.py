"""Groups that a policy drew itself and judges scored, as records with latents, saved with the checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from contrapose.core.group import REWARD
from contrapose.seeds import generator
from contrapose.store.mixture import Mixture
from contrapose.store.ranking import ranked
from contrapose.store.records import GroupRecord, Sample

_SCORE = "scores/"  # before the names of scores, among the names of tensors
_STEP = "step/"  # before the parts of a step


class TakenStep(NamedTuple):
    """When the samples of a group, which are steps of a sampler, were taken; on the CPU."""

    t: Tensor
    """Their one time."""
    noises: Tensor
    """[n, ...], the noise that each implies."""
    reward_scale: Tensor
    """What their rewards are multiplied by."""


@dataclass(frozen=True, eq=False)
class DrawnGroup:
    """The samples of one draw of a prompt, and what was said of them."""

    number: int
    """Of all that were drawn of this run, which one it is."""
    prompt: int
    """The record that has its prompt."""
    latents: Tensor
    """[n, ...], on the CPU."""
    scores: Mapping[str, tuple[float, ...]]
    """By name, a number for each sample; `REWARD` among them."""
    step: TakenStep | None = None
    """Where the samples are steps of a sampler."""

    @property
    def spread(self) -> float:
        """How far its best and its worst reward lie apart."""
        rewards = self.scores[REWARD]
        return max(rewards) - min(rewards)


class DrawnGroups:
    """The latest groups, the newest last, read as a store is: `records[i]`, and latents by sample and index."""

    def __init__(self, size: int, store: Mixture, seed: int):
        self.size = size
        self._store = store
        self._seed = seed
        self._begin([], 0)

    def add(self, new: Sequence[DrawnGroup], position: int) -> None:
        """Keep these from a training position on; the oldest beyond `size` leave."""
        self._begin([*self.groups, *new][-self.size :], position)

    def _begin(self, groups: Sequence[DrawnGroup], position: int) -> None:
        self.groups = list(groups)
        self.first = position
        self.records: list[GroupRecord] = []
        for group in self.groups:
            prompt = self._store.records[group.prompt].prompt
            # the labels rank the samples by their rewards
            labels = ranked(group.scores[REWARD]).labels
            self.records.append(GroupRecord(f"own-{group.number}", prompt, "", group.number, labels, group.scores))
        self._order = lru_cache(maxsize=2)(self._shuffled)  # a step may reach from one epoch into the next

    def index_at(self, position: int) -> int:
        """The group at a training position: of those that are kept each once, in an order of its own, and again."""
        epoch, offset = divmod(position - self.first, len(self.groups))
        return self._order(epoch)[offset]

    def _shuffled(self, epoch: int) -> list[int]:
        stream = generator(self._seed, "own groups", self.first, epoch)
        return torch.randperm(len(self.groups), generator=stream).tolist()

    def latent(self, sample: Sample, index: int) -> Tensor:
        """The latent of one sample of one group."""
        return self.groups[index].latents[self.records[index].place(sample)]

    def shape(self, index: int) -> tuple[int, ...]:
        """The shape of one group's latents."""
        return tuple(self.groups[index].latents.shape[1:])

    def steps(self, indices: Sequence[int]) -> list[TakenStep]:
        """When these groups' samples were taken, where they are steps; else none."""
        steps = [self.groups[index].step for index in indices]
        return [step for step in steps if step is not None]

    def noises(self, sample: Sample, indices: Sequence[int]) -> Tensor:
        """The noise [b, ...] that one sample of each of these groups implies, where samples are steps."""
        of_groups = zip(indices, self.steps(indices), strict=True)
        return torch.stack([step.noises[self.records[index].place(sample)] for index, step in of_groups])

    def state(self) -> dict[str, Tensor]:
        """Every group's numbers by its place, and from which position on they are taken."""
        state = {"first": torch.tensor(self.first)}
        for place, group in enumerate(self.groups):
            state[f"{place}.number"] = torch.tensor(group.number)
            state[f"{place}.prompt"] = torch.tensor(group.prompt)
            state[f"{place}.latents"] = group.latents.contiguous()
            for name, numbers in group.scores.items():
                state[f"{place}.{_SCORE}{name}"] = torch.tensor(numbers, dtype=torch.float64)
            if group.step is not None:
                for part, value in group.step._asdict().items():
                    state[f"{place}.{_STEP}{part}"] = value.contiguous()
        return state

    def load(self, state: dict[str, Tensor]) -> None:
        """Put groups back that `state` gave."""
        places: dict[int, dict[str, Tensor]] = {}
        for key, value in state.items():
            # what is the group's own has its number before a dot; `first` is of all groups
            place, dot, name = key.partition(".")
            if dot:
                places.setdefault(int(place), {})[name] = value
        groups: list[DrawnGroup] = []
        for _, kept in sorted(places.items()):
            scores: dict[str, tuple[float, ...]] = {}
            for name, value in kept.items():
                if name.startswith(_SCORE):
                    scores[name.removeprefix(_SCORE)] = tuple(value.tolist())
            step = None
            if f"{_STEP}t" in kept:
                step = TakenStep(*(kept[_STEP + part] for part in TakenStep._fields))
            groups.append(DrawnGroup(int(kept["number"]), int(kept["prompt"]), kept["latents"], scores, step))
        self._begin(groups, int(state["first"]))
