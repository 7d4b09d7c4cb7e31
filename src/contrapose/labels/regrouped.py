"""Stored samples under other records: latents stay as they are, and what is said of them changes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from contrapose.errors import UserError
from contrapose.store.groups import GroupStore
from contrapose.store.manifest import JUDGED, MADE, MANIFEST
from contrapose.store.records import GroupRecord
from contrapose.store.shards import by_size


class Regrouped(NamedTuple):
    """A new record, the row of the group that its samples are of, and their places there."""

    record: GroupRecord
    row: int
    places: tuple[int, ...]

    @classmethod
    def all_of(cls, store: GroupStore, row: int) -> Regrouped:
        """A group as it is stored."""
        record = store.records[row]
        return cls(record, row, tuple(range(record.num_samples)))


class LatentKind(NamedTuple):
    """What groups of one file have in common beside their number of samples."""

    shape: tuple[int, ...]
    has_mask: bool


class Samples:
    """Samples of a store as other groups, a file of them after another; identifiers are unique among them."""

    def __init__(self, store: GroupStore, groups: Iterable[Regrouped]) -> None:
        self.store = store
        self._groups = {group.record.id: group for group in groups}

    @property
    def masked(self) -> bool:
        """Whether any of them says where its samples differ."""
        return any(self._kind(group).has_mask for group in self._groups.values())

    def shards(self, num: int) -> list[tuple[LatentKind, Sequence[GroupRecord]]]:
        """The records of each file, at most `num`, with what they have in common."""
        kinds = [self._kind(group) for group in self._groups.values()]
        return by_size([group.record for group in self._groups.values()], kinds, dict.fromkeys(kinds), num)

    def latents(self, _: LatentKind, records: Sequence[GroupRecord]) -> Tensor:
        """Latents [b, n, ...] of records of one kind and n."""
        stacked: list[Tensor] = []
        for record in records:
            group = self._groups[record.id]
            stacked.append(torch.stack([self.store.latent(place, group.row) for place in group.places]))
        return torch.stack(stacked)

    def masks(self, kind: LatentKind, records: Sequence[GroupRecord]) -> Tensor | None:
        """Masks [b, h, w] of bytes; None for records without."""
        if not kind.has_mask:
            return None
        return torch.stack([self.store.mask_levels(self._groups[record.id].row) for record in records])

    def _kind(self, group: Regrouped) -> LatentKind:
        # where samples differ is said of a group whole
        is_whole = len(group.places) == self.store.records[group.row].num_samples
        return LatentKind(self.store.shape(group.row), is_whole and self.store.has_mask(group.row))


def check_identifiers(store: GroupStore) -> None:
    """Raise `UserError` for groups of one identifier, which mistakes and files go by."""
    seen: set[str] = set()
    for record in store.records:
        if record.id in seen:
            raise UserError(f"{store.folder}: record {record.id}: its identifier is used twice; make the groups again")
        seen.add(record.id)


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
