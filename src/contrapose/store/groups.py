"""Groups on disk: `pairs.yaml` says how they were made, and each shard is one file, whole or absent.

One folder may hold shards of several n. Disks and people change files: all that a header tells is checked when a folder
is opened, and a latent when it is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from contrapose.containers.places import place_of
from contrapose.containers.readers import readable
from contrapose.contents import digest_of_parts
from contrapose.errors import UserError
from contrapose.store.index import read_index
from contrapose.store.manifest import MADE, MANIFEST, read_manifest
from contrapose.store.noted_digests import changed_shards, shard_digests
from contrapose.store.record_table import Numbers, RecordTable, piece_of
from contrapose.store.records import GroupRecord, Sample, old_digest
from contrapose.store.shard_files import LATENTS, MASKS, OLD_SIDES, open_shard, shard_paths

_AT_ONCE = 64  # records whose latents are in memory together
_KINDS = {1: "likes and dislikes", 2: "pairs"}  # by their number of samples


class GroupStore:
    """Read access to a folder of groups: `len`, `records[i]`, and latents by sample and index, read lazily.

    Raises `UserError` naming the file when the manifest or a shard is missing or broken, and when these are not all the
    groups that the manifest tells of; `complete=False` opens such a folder, and `flaw` says what is the matter.
    """

    def __init__(self, folder: Path, complete: bool = True):
        self.folder = place_of(Path(folder))
        with readable(self.folder):
            self.manifest = read_manifest(self.folder)
        with readable(self.folder):
            self.shards = shard_paths(self.folder)
        if not self.shards:
            raise UserError(f"{self.folder}: holds no shards yet; run the command that began it again")
        index = read_index(self.folder, self.shards, self.manifest["num_groups"])
        self.records: RecordTable = index.records
        self._digest = index.digest
        self._kinds = index.shards
        # shards differ in length, so that no division leads from a record to its shard
        self._ends = np.cumsum([kind.num for kind in self._kinds])
        # shuffled reading goes back and forth between shards, and a process may have so many files open
        self._open = lru_cache(maxsize=64)(open_shard)
        self.flaw = self._difference()
        if complete and self.flaw:
            raise UserError(f"{self.folder}: {self.flaw}")

    def _difference(self) -> str | None:
        """How the groups differ from those that the manifest tells of; None when they are the same."""
        planned = self.manifest["num_groups"]
        if len(self) < planned:
            return f"holds {len(self)} of {planned} groups; run the command that made them again"
        if len(self) > planned:
            return (
                f"holds {len(self)} groups, where {MANIFEST} tells of {planned}; take away the shards of others "
                f"(the last one is {self.shards[-1].name})"
            )
        # by the digest of this format, or that of format 2, which the first folders have not got either
        if "groups_digest" in self.manifest:
            same = self.manifest["groups_digest"] == self._digest
        else:
            same = self.manifest.get("pairs_digest") in (None, old_digest(self.records))
        if not same:
            return (
                f"holds other groups than {MANIFEST} tells of; delete the folder and run the command that made it again"
            )
        return None

    def __len__(self) -> int:
        return len(self.records)

    @property
    def settings(self) -> dict[str, Any]:
        """What the groups were drawn, imported or made of photographs with; empty where that was not recorded."""
        return next((self.manifest[way] for way in MADE if way in self.manifest), {})

    @property
    def kind(self) -> str:
        """What its groups are called together: pairs, likes and dislikes, or groups where they are neither alone."""
        sizes = set(np.abs(self.records.kinds()).tolist())
        return _KINDS[sizes.pop()] if sizes in ({1}, {2}) else "groups"

    @property
    def digest(self) -> str:
        """A digest of all groups, wherever the folder lies and under any name."""
        with readable(self.folder):
            return digest_of_parts(
                f"{shard.name} {digest}"
                for shard, digest in zip(self.shards, shard_digests(self.folder, self.shards), strict=True)
            )

    def changed_shards(self) -> list[str]:
        """The shards whose bytes are not those that were noted, though nobody has written them; all are read."""
        with readable(self.folder):
            return changed_shards(self.folder, self.shards)

    @property
    def fingerprint(self) -> str:
        """Which model the groups were made with; raises `UserError` where that is not recorded."""
        if "fingerprint" not in self.manifest:
            raise UserError(f"{self.folder / MANIFEST}: does not say which model made these groups; make them again")
        fingerprint: str = self.manifest["fingerprint"]
        return fingerprint

    def model_or(self, model: str | None) -> str:
        """The model that is named, or else the one that the groups were made with.

        Raises `UserError` where neither is known.
        """
        maker: str | None = model or self.settings.get("model")
        if maker is None:
            raise UserError(f"{self.folder}: does not say which model made these pairs; name it with --model")
        return maker

    def check_maker(self, model: str, fingerprint: str) -> None:
        """Raise `UserError` where the groups were made with another model than this one, of this fingerprint."""
        maker = self.manifest.get("fingerprint", fingerprint)
        if maker != fingerprint:
            raise UserError(
                f"{self.folder}: these pairs were made with another model ({maker}) than {model} ({fingerprint}), "
                "which may decode them wrongly; name that one with --model"
            )

    def shape(self, index: int) -> tuple[int, ...]:
        """The shape of one record's latents, the same for all of its samples."""
        return self._kinds[self._where(index)[0]].shape

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """The distinct shapes of all latents."""
        return sorted({kind.shape for kind in self._kinds})

    def shape_numbers(self) -> Numbers:
        """By record, the place of its latents' shape among `shapes`."""
        places = {shape: place for place, shape in enumerate(self.shapes)}
        return self._by_record([places[kind.shape] for kind in self._kinds])

    def _by_record(self, of_shards: Sequence[int]) -> Numbers:
        """What is so of each record, of what is so of all in its shard."""
        return np.repeat(of_shards, [kind.num for kind in self._kinds])

    def _where(self, index: int) -> tuple[int, int]:
        """The shard of a record, and its row there."""
        return piece_of(index, self._ends)

    def latent(self, sample: Sample, index: int) -> Tensor:
        """The latent of one sample of one record; raises `UserError` when it holds values that are not finite."""
        record = self.records[index]
        with readable(self.folder):
            latent = self._stored(record.place(sample), index)
        if not latent.isfinite().all():
            path = self.shards[self._where(index)[0]]
            name = sample_name(record, record.place(sample))
            raise UserError(
                f"{path}: record {record.id}: its {name} holds values that are not finite; "
                f"'contrapose pairs check {self.folder}' names all of them"
            )
        return latent

    @property
    def has_masks(self) -> bool:
        """Whether any of its records says where its samples differ."""
        return any(kind.has_masks for kind in self._kinds)

    def has_mask(self, index: int) -> bool:
        """Whether a record says where its samples differ."""
        return self._kinds[self._where(index)[0]].has_masks

    def masked(self) -> Numbers:
        """By record, whether it says where its samples differ."""
        return self._by_record([kind.has_masks for kind in self._kinds])

    def mask(self, index: int) -> Tensor:
        """Where the samples of a record that `has_mask` differ, from 0 to 1, [h, w] over its latents."""
        return self.mask_levels(index) / 255

    def mask_levels(self, index: int) -> Tensor:
        """The same as it is stored, in bytes from 0 to 255."""
        shard, row = self._where(index)
        with readable(self.folder):
            levels: Tensor = self._open(self.shards[shard]).get_slice(MASKS)[row]
        return levels

    def latents(self) -> Iterator[Tensor]:
        """All latents as they are stored, [k, n, ...] of some records after another's."""
        for shard, (path, kind) in enumerate(zip(self.shards, self._kinds, strict=True)):
            file = open_shard(path)
            for first in range(0, kind.num, _AT_ONCE):
                with readable(self.folder):
                    latents = self._rows(file, shard, slice(first, min(first + _AT_ONCE, kind.num)))
                yield latents

    def groups(self, indices: Sequence[int]) -> Iterator[Tensor]:
        """The latents [n, ...] of all samples of each of these records, as they are stored.

        Neighbours are read at once.
        """
        pieces = [self._where(index) for index in indices]
        first = 0
        for last in range(1, len(pieces) + 1):
            if last < len(pieces) and pieces[last] == (pieces[last - 1][0], pieces[last - 1][1] + 1):
                continue
            shard, row = pieces[first]
            with readable(self.folder):
                latents = self._rows(self._open(self.shards[shard]), shard, slice(row, row + last - first))
            yield from latents
            first = last

    def _rows(self, file: Any, shard: int, rows: slice) -> Tensor:
        """The latents [k, n, ...] of these rows of a shard."""
        latents: Tensor
        if self._kinds[shard].of_old_format:
            latents = torch.stack([file.get_slice(side)[rows] for side in OLD_SIDES], 1)
        else:
            latents = file.get_slice(LATENTS)[rows]
        return latents

    def _stored(self, place: int, index: int) -> Tensor:
        shard, row = self._where(index)
        file = self._open(self.shards[shard])
        latent: Tensor
        # a slice reads one latent out of the file, and not the shard
        if self._kinds[shard].of_old_format:
            latent = file.get_slice(OLD_SIDES[place])[row]
        else:
            latent = file.get_slice(LATENTS)[row, place]
        return latent


def sample_name(record: GroupRecord, place: int) -> str:
    """What a message calls a sample: winner or loser of a pair, else by its place, counted from 1."""
    if record.num_samples == 2:
        return "winner" if place == record.place("winner") else "loser"
    return f"sample {place + 1}"


class Latents(Protocol):
    """A source of latents by sample and record: a store, or a mixture of several."""

    def latent(self, sample: Sample, index: int) -> Tensor: ...


def stack(store: Latents, sample: Sample, indices: Sequence[int]) -> Tensor:
    """The latents of one sample of several records of one shape, [b, ...]."""
    return torch.stack([store.latent(sample, index) for index in indices])
