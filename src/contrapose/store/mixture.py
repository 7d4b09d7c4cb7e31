"""Several folders of pairs as one: `real/ drawn/:0.3` takes every pair of the first, and of the second three in ten.

A folder's weight is how often one epoch visits each of its pairs: 1 once, 2 twice; 0.3 visits a fresh random 30 % of
them each epoch. A file of prompts may stand in the place of a folder, whose records have no samples then.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
from torch import Tensor

from contrapose.containers.readers import READERS
from contrapose.contents import digest_of_parts
from contrapose.errors import UserError
from contrapose.ranges import Range, check
from contrapose.store.groups import GroupStore
from contrapose.store.prompt_list import PromptList
from contrapose.store.prompts import Prompt
from contrapose.store.records import GroupRecord, Sample

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


class _Member(NamedTuple):
    """Where a group is: its store, its row there, and its place among the row's samples where it is one of them."""

    store: GroupStore | PromptList
    row: int
    weight: float
    place: int | None = None

    @property
    def groups(self) -> GroupStore:
        """Its store, which has samples."""
        assert isinstance(self.store, GroupStore), "prompts alone have no latents"
        return self.store


class Mixture:
    """Read access to several stores as to one: `len`, `records[i]`, latents by index, and what an epoch holds."""

    def __init__(self, folders: Path | Sequence[Path]):
        named = parse(folders)
        self.stores: list[GroupStore | PromptList] = []
        for path, _ in named:
            names_prompts = path.is_file() or path.suffix.lower() in (".txt", *READERS)
            self.stores.append(PromptList(path) if names_prompts and not path.is_dir() else GroupStore(path))
        self.records: list[GroupRecord] = [record for store in self.stores for record in store.records]
        self._named = [(weight, store) for (_, weight), store in zip(named, self.stores, strict=True)]
        self._members = [_Member(store, row, weight) for weight, store in self._named for row in range(len(store))]

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
        member = self._members[index]
        if isinstance(member.store, PromptList):
            return member.store.prompts[member.row]
        return Prompt(self.records[index].prompt)

    def shape(self, index: int) -> tuple[int, ...]:
        """The shape of one record's latents."""
        member = self._members[index]
        return member.groups.shape(member.row)

    def only(self, chosen: Sequence[int]) -> Mixture:
        """These groups alone, in this order, with their folders' weights."""
        members = [self._members[index] for index in chosen]
        return self._of(members, [self.records[index] for index in chosen])

    def apart(self, like_share: float | None = None) -> Mixture:
        """Every sample as a group of its own, known by its group's identifier, prompt and seed.

        Of what an epoch sees, `like_share` are likes, unless all are likes, or none is.
        """
        members: list[_Member] = []
        records: list[GroupRecord] = []
        for member, record in zip(self._members, self.records, strict=True):
            for place, label in enumerate(record.labels):
                scores = {name: (numbers[place],) for name, numbers in record.scores.items()}
                members.append(member._replace(place=place))
                records.append(GroupRecord(record.id, record.prompt, record.degraded, record.seed, (label,), scores))
        if like_share is not None:
            members = _balanced(members, records, like_share)
        return self._of(members, records)

    def as_drawn(self, num: int, judge: str | None) -> Mixture:
        """Every group's first so many samples, ranked by a judge, or by their labels without one."""
        return self._of(self._members, [record.as_drawn(num, judge) for record in self.records])

    def _of(self, members: list[_Member], records: list[GroupRecord]) -> Mixture:
        """Other groups of the same folders."""
        other = copy(self)
        other._members = members
        other.records = records
        return other

    @property
    def usual_shape(self) -> tuple[int, ...]:
        """The shape that most records have."""
        return Counter(self.shape(index) for index in range(len(self))).most_common(1)[0][0]

    def latent(self, sample: Sample, index: int) -> Tensor:
        """The latent of one sample of one record."""
        member = self._members[index]
        # by the record as it is here, which may be ranked otherwise than its store has it
        place = self.records[index].place(sample)
        if member.place is not None:
            assert place == 0, "a lone sample is the first of its group"
            place = member.place
        return member.groups.latent(place, member.row)

    def has_mask(self, index: int) -> bool:
        """Whether one record says where its samples differ."""
        member = self._members[index]
        return isinstance(member.store, GroupStore) and member.store.has_mask(member.row)

    def mask(self, index: int) -> Tensor:
        """Where the samples of one record that has a mask differ, from 0 to 1, [h, w] over its latents."""
        member = self._members[index]
        return member.groups.mask(member.row)

    def epoch(self, records: Sequence[int], generator: torch.Generator) -> list[int]:
        """The records that an epoch over `records` sees, shuffled; every epoch is as long as every other."""
        by_weight: dict[float, list[int]] = {}
        for record in records:
            by_weight.setdefault(self._members[record].weight, []).append(record)
        seen: list[int] = []
        for weight, same in by_weight.items():
            # the whole part of a weight visits every pair, what is left of it a fresh lot of them
            num_times = math.floor(weight)
            seen += same * num_times
            if weight > num_times:
                # a folder that is named is seen, however few of its pairs the weight asks for
                num_more = max(1, round((weight - num_times) * len(same)))
                shuffled = torch.randperm(len(same), generator=generator)
                seen += [same[i] for i in shuffled[:num_more].tolist()]
        # once more over all, so that folders are mixed within a batch
        return [seen[i] for i in torch.randperm(len(seen), generator=generator).tolist()]


def _balanced(members: Sequence[_Member], records: Sequence[GroupRecord], like_share: float) -> list[_Member]:
    """The same lone samples with weights under which an epoch of unchanged length has this share of likes."""
    visits = {True: 0.0, False: 0.0}
    for member, record in zip(members, records, strict=True):
        visits[record.liked] += member.weight
    if not all(visits.values()):
        return list(members)
    shares = {True: like_share, False: 1 - like_share}
    factors = {liked: shares[liked] * sum(visits.values()) / number for liked, number in visits.items()}
    return [
        member._replace(weight=member.weight * factors[record.liked])
        for member, record in zip(members, records, strict=True)
    ]
