"""Stored samples under other records: latents stay as they are, and what is said of them changes."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from contrapose.containers.spool import MadeWhenAsked
from contrapose.errors import UserError
from contrapose.store.groups import GroupStore
from contrapose.store.manifest import JUDGED, MADE, MANIFEST
from contrapose.store.record_table import Numbers, RecordTable
from contrapose.store.records import GroupRecord
from contrapose.store.shards import by_size


class Regrouped(NamedTuple):
    """A new record, the row of the group that its samples are of, and their places there."""

    record: GroupRecord
    row: int
    places: tuple[int, ...]


class LatentKind(NamedTuple):
    """What groups of one file have in common beside their number of samples."""

    shape: tuple[int, ...]
    has_mask: bool


class Samples(MadeWhenAsked[Regrouped]):
    """Samples of a store as other groups, of which records lie in a file; identifiers are unique among them."""

    def __init__(self, store: GroupStore, records: RecordTable, rows: Numbers, places: Numbers):
        self.store = store
        self.records = records
        self._rows = rows
        self._places = places
        """Of all groups, one behind the other."""
        self._ends = np.cumsum(np.abs(records.kinds()), dtype=np.int64)

    @classmethod
    def all_of(cls, store: GroupStore) -> Samples:
        """All groups as they are stored."""
        nums = np.abs(store.records.kinds())
        ends = np.cumsum(nums, dtype=np.int64)
        places = np.arange(ends[-1]) - np.repeat(ends - nums, nums)
        return cls(store, store.records, np.arange(len(store)), places)

    @classmethod
    def of(cls, store: GroupStore, groups: Iterable[Regrouped]) -> Samples:
        """These groups, gone through once; `UserError` where the disk is full."""
        rows = array("q")
        places = array("q")

        def records() -> Iterator[GroupRecord]:
            for group in groups:
                rows.append(group.row)
                places.extend(group.places)
                yield group.record

        table = RecordTable.holding(records())
        return cls(store, table, np.array(rows), np.array(places))

    def __len__(self) -> int:
        return len(self.records)

    def one(self, index: int) -> Regrouped:
        record = self.records[index]
        end = int(self._ends[index])
        places = self._places[end - record.num_samples : end]
        return Regrouped(record, int(self._rows[index]), tuple(places.tolist()))

    @property
    def masked(self) -> bool:
        """Whether any of them says where its samples differ."""
        return bool(self._have_masks().any())

    def shards(self, num: int) -> list[tuple[LatentKind, Sequence[GroupRecord]]]:
        """The records of each file, at most `num`, with what they have in common."""
        shapes = self.store.shapes
        # a shape and whether there is a mask in one number
        numbers = 2 * self.store.shape_numbers()[self._rows] + self._have_masks()
        kinds, firsts = np.unique(numbers, return_index=True)
        files = by_size(self.records, numbers.tolist(), kinds[np.argsort(firsts)].tolist(), num)
        return [(LatentKind(shapes[kind // 2], bool(kind % 2)), records) for kind, records in files]

    @cached_property
    def _are_whole(self) -> Numbers:
        """By group, whether it has all samples of a stored one."""
        are_whole: Numbers = np.abs(self.records.kinds()) == np.abs(self.store.records.kinds())[self._rows]
        return are_whole

    def _have_masks(self) -> Numbers:
        # where samples differ is said of a group whole
        return self._are_whole & self.store.masked()[self._rows]

    def latents(self, _: LatentKind, records: Sequence[GroupRecord]) -> Tensor:
        """Latents [b, n, ...] of records of one kind and n; `UserError` for values that are not finite."""
        indices = [self.records.find("id", record.id) for record in records]
        groups = [self[index] for index in indices]
        if self._are_whole[indices].all():
            stored = self.store.groups([group.row for group in groups])
            latents = torch.stack([samples[list(group.places)] for samples, group in zip(stored, groups, strict=True)])
            if latents.isfinite().all():
                return latents
        # one by one: so that samples that are left out are not read, and a message names its sample
        stacked: list[Tensor] = []
        for group in groups:
            stacked.append(torch.stack([self.store.latent(place, group.row) for place in group.places]))
        return torch.stack(stacked)

    def masks(self, kind: LatentKind, records: Sequence[GroupRecord]) -> Tensor | None:
        """Masks [b, h, w] of bytes; None for records without."""
        if not kind.has_mask:
            return None
        rows = [int(self._rows[self.records.find("id", record.id)]) for record in records]
        return torch.stack([self.store.mask_levels(row) for row in rows])


def check_identifiers(store: GroupStore) -> None:
    """Raise `UserError` for groups of one identifier, which mistakes and files go by."""
    twice = store.records.repeated_texts("id")
    if twice:
        raise UserError(f"{store.folder}: record {twice[0]}: its identifier is used twice; make the groups again")


def origin(store: GroupStore) -> dict[str, Any]:
    """What `pairs.yaml` says of how a store was made, for the one that a further step makes of it."""
    sections = {way: store.manifest[way] for way in MADE if way in store.manifest}
    last = [{step: store.manifest[step]} for step in JUDGED if step in store.manifest]
    return {**sections, "earlier": [*store.manifest.get("earlier", ()), *last], "scores": directions(store)}


def directions(store: GroupStore) -> dict[str, str]:
    """The scores that judges gave, by name, and whether `higher` or `lower` is better; `UserError` for another word."""
    better = dict(store.manifest.get("scores", {}))
    for name, word in better.items():
        if word not in ("higher", "lower"):
            raise UserError(
                f"{store.folder / MANIFEST}: scores.{name} is {word!r}; write higher or lower, as is better"
            )
    return better
