"""Several folders of pairs as one: `real/ drawn/:0.3` takes every pair of the first, and of the second three in ten.

A folder's weight is how often one epoch visits each of its pairs: 1 once, 2 twice; 0.3 visits a fresh random 30 % of
them each epoch. A file of prompts may stand in the place of a folder, whose records have no samples then.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from copy import copy
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from contrapose.containers.readers import READERS
from contrapose.contents import digest_of_parts
from contrapose.errors import UserError
from contrapose.ranges import Range, check
from contrapose.store.chosen_records import ChosenRecords, FirstSamples
from contrapose.store.groups import GroupStore
from contrapose.store.prompt_list import PromptList
from contrapose.store.prompts import Prompt
from contrapose.store.record_table import Numbers
from contrapose.store.records import Sample

Weight = Annotated[float, Range(0, 1000, low_open=True)]
"""How often an epoch sees each pair; the epoch's order is a list in memory."""
_WEIGHTED = re.compile(r"(.+):(\d*\.?\d+)")


def parse(folders: Path | Sequence[Path]) -> list[tuple[Path, float]]:
    """Folders with their weights, each written FOLDER or FOLDER:WEIGHT; a folder of that very name is taken as it is.

    Raises `UserError` for a weight out of its range, and for a folder that is named twice.
    """
    weighted: list[tuple[Path, float]] = []
    for folder in [folders] if isinstance(folders, Path) else folders:
        # a folder may be called a:1
        match = None if folder.exists() else _WEIGHTED.fullmatch(str(folder))
        weighted.append((Path(match[1]), float(match[2])) if match else (folder, 1.0))
    if not weighted:
        raise UserError("pairs: name a folder")
    for folder, weight in weighted:
        check(f"pairs {folder}: weight", weight, Weight)
    # by where they lead: `a` and `./a` are one folder
    uses = Counter(folder.resolve() for folder, _ in weighted)
    for folder, count in uses.items():
        if count > 1:
            raise UserError(f"pairs: {folder.name} is named twice; give it a weight")
    return weighted


def names_prompts(path: Path) -> bool:
    """Whether a path means a file of prompts, be it there or not, and not a folder of groups."""
    return not path.is_dir() and (path.is_file() or path.suffix.lower() in (".txt", *READERS))


class Mixture:
    """Read access to several stores as to one: `len`, `records[i]`, latents by index, and what an epoch holds."""

    def __init__(self, folders: Path | Sequence[Path]):
        named = parse(folders)
        self.stores: list[GroupStore | PromptList] = []
        for path, _ in named:
            self.stores.append(PromptList(path) if names_prompts(path) else GroupStore(path))
        self._named = [(weight, store) for (_, weight), store in zip(named, self.stores, strict=True)]
        sizes = [len(store) for store in self.stores]
        self.records = ChosenRecords([store.records for store in self.stores], np.arange(sum(sizes)))
        self._weights = np.repeat([weight for weight, _ in self._named], sizes)

    def __len__(self) -> int:
        return len(self.records)

    def __str__(self) -> str:
        return ", ".join(str(store.folder) for store in self.stores)

    @property
    def digest(self) -> str:
        """A digest of all that the folders hold, with their weights."""
        return digest_of_parts(f"{weight:g} {store.digest}" for weight, store in self._named)

    def prompt(self, index: int) -> Prompt:
        """One record's prompt, with what a file of prompts tells beside its text."""
        store, row = self._store(index)
        return store.prompt(row) if isinstance(store, PromptList) else Prompt(self.records[index].prompt)

    def prompts(self) -> Iterator[Prompt]:
        """Every record's prompt, likewise."""
        return map(self.prompt, range(len(self)))

    def shape(self, index: int) -> tuple[int, ...]:
        """The shape of one record's latents."""
        groups, row = self._groups(index)
        return groups.shape(row)

    def by_shape(self) -> dict[tuple[int, ...], Numbers]:
        """The records, rising, of each shape that latents have, the shape of the first record first."""
        shapes = sorted({shape for store in self.stores for shape in _groups_of(store).shapes})
        numbers: list[Numbers] = []
        for store in self.stores:
            of_store = np.array([shapes.index(shape) for shape in _groups_of(store).shapes])
            numbers.append(of_store[_groups_of(store).shape_numbers()])
        of_records = np.concatenate(numbers)[self.records.numbers]
        present, firsts = np.unique(of_records, return_index=True)
        in_turn = present[np.argsort(firsts)]
        return {shapes[number]: np.flatnonzero(of_records == number) for number in in_turn}

    @property
    def usual_shape(self) -> tuple[int, ...]:
        """The shape that most records have."""
        by_shape = self.by_shape()
        return max(by_shape, key=lambda shape: len(by_shape[shape]))

    def only(self, chosen: Numbers) -> Mixture:
        """These groups alone, in this order, with their folders' weights."""
        return self._of(self.records.only(chosen), self._weights[chosen])

    def apart(self, like_share: float | None = None) -> Mixture:
        """Every sample as a group of its own, known by its group's identifier, prompt and seed.

        Of what an epoch sees, `like_share` are likes, unless all are likes, or none is.
        """
        records = self.records.apart()
        weights = np.repeat(self._weights, np.abs(self.records.kinds()))
        if like_share is not None:
            weights = _balanced(weights, records.kinds() > 0, like_share)
        return self._of(records, weights)

    def as_drawn(self, num: int, judge: str | None) -> Mixture:
        """Every group's first so many samples, ranked by a judge, or by their labels without one."""
        return self._of(self.records.as_drawn(FirstSamples(num, judge)), self._weights)

    def _of(self, records: ChosenRecords, weights: Numbers) -> Mixture:
        """Other groups of the same folders."""
        other = copy(self)
        other.records = records
        other._weights = weights
        return other

    def _store(self, index: int) -> tuple[GroupStore | PromptList, int]:
        """The store that holds a record, and its row there."""
        store, row = self.records.table_of(index)
        return self.stores[store], row

    def _groups(self, index: int) -> tuple[GroupStore, int]:
        """The same where records have samples."""
        store, row = self._store(index)
        return _groups_of(store), row

    def latent(self, sample: Sample, index: int) -> Tensor:
        """The latent of one sample of one record."""
        groups, row = self._groups(index)
        # by the record as it is here, which may be ranked otherwise than its store has it
        place = self.records[index].place(sample)
        if self.records.places is not None:
            assert place == 0, "a lone sample is the first of its group"
            place = int(self.records.places[index])
        return groups.latent(place, row)

    def masked(self) -> Numbers:
        """By record, whether it says where its samples differ."""
        return np.concatenate([_groups_of(store).masked() for store in self.stores])[self.records.numbers]

    def mask(self, index: int) -> Tensor:
        """Where the samples of one record that has a mask differ, from 0 to 1, [h, w] over its latents."""
        groups, row = self._groups(index)
        return groups.mask(row)

    def epoch(self, records: Sequence[int] | Numbers, generator: torch.Generator) -> Numbers:
        """The records that an epoch over `records` sees, shuffled; every epoch is as long as every other."""
        chosen = np.asarray(records, dtype=np.int64)
        weights, firsts = np.unique(self._weights[chosen], return_index=True)
        seen: list[Numbers] = []
        for weight in weights[np.argsort(firsts)].tolist():
            same = chosen[self._weights[chosen] == weight]
            # the whole part of a weight visits every pair, what is left of it a fresh lot of them
            num_times = math.floor(weight)
            seen.append(np.tile(same, num_times))
            if weight > num_times:
                # a folder that is named is seen, however few of its pairs the weight asks for
                num_more = max(1, round((weight - num_times) * len(same)))
                seen.append(same[_shuffled(len(same), generator)[:num_more]])
        # once more over all, so that folders are mixed within a batch
        together = np.concatenate([chosen[:0], *seen])
        return together[_shuffled(len(together), generator)]


def _groups_of(store: GroupStore | PromptList) -> GroupStore:
    assert isinstance(store, GroupStore), "prompts alone have no latents"
    return store


def _shuffled(num: int, generator: torch.Generator) -> Numbers:
    return torch.randperm(num, generator=generator).numpy()


def _balanced(weights: Numbers, liked: Numbers, like_share: float) -> Numbers:
    """Weights of lone samples under which an epoch of unchanged length has this share of likes."""
    visits: dict[bool, float] = {}
    for side in (True, False):
        # added up one by one: numpy's own sum rounds otherwise
        added = np.cumsum(weights[liked == side])
        visits[side] = float(added[-1]) if len(added) else 0.0
    if not all(visits.values()):
        return weights
    shares = {True: like_share, False: 1 - like_share}
    factors = {side: shares[side] * sum(visits.values()) / number for side, number in visits.items()}
    return weights * np.where(liked, factors[True], factors[False])
