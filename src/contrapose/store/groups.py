"""Groups on disk: `pairs.yaml` says how they were made, and each shard is one file, whole or absent.

A shard is a safetensors file with `latents` [k, n, ...] of k groups of n samples, and its records as JSON in the
header, so that tensors and texts can never be out of step. One folder may hold shards of several n. Disks and people
change files: all that a header tells is checked when a folder is opened, and a latent when it is read.

From format 4 on a shard may hold `masks` [k, h, w] over the latents [k, n, c, h, w]: where a group's samples differ,
from 0 to 255, the mean over a latent's pixels.

Folders of format 2, whose shards hold the tensors `winner` and `loser` [k, ...], are read as well.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from contrapose.contents import digest_of_parts, file_digest
from contrapose.errors import UserError
from contrapose.store.manifest import MADE, MANIFEST, read_manifest
from contrapose.store.records import (
    GroupRecord,
    Sample,
    count_and_digest,
    old_digest,
    parse_old_record,
    parse_record,
)
from contrapose.tensors import save_tensors

_LATENTS = "latents"
_MASKS = "masks"
_OLD_SIDES = ("winner", "loser")  # the tensors of format 2, in the order of a pair's samples
_DTYPES = ("F16", "BF16", "F32")  # as safetensors names them
_MASK_DTYPES = ("U8",)
_KINDS = {1: "likes and dislikes", 2: "pairs"}  # by their number of samples
_AGAIN = "delete it and run the command that made it again"


def shard_path(folder: Path, index: int) -> Path:
    return folder / f"shard-{index:05d}.safetensors"


def write_shard(
    folder: Path, index: int, records: Sequence[GroupRecord], latents: Tensor, masks: Tensor | None = None
) -> None:
    """Write one shard of groups with latents [k, n, ...], and masks [k, h, w] of bytes if any, aside and renamed."""
    assert len(latents) == len(records)
    assert {record.num_samples for record in records} == {latents.shape[1]}, "groups of one n stack"
    header = {"records": json.dumps([asdict(record) for record in records], ensure_ascii=False)}
    tensors = {_LATENTS: latents}
    if masks is not None:
        tensors[_MASKS] = masks
    save_tensors(shard_path(folder, index), tensors, header)


class Shard(NamedTuple):
    """One file of groups: its records in their order, and the shape of each of their samples' latents."""

    path: Path
    records: list[GroupRecord]
    shape: tuple[int, ...]
    of_old_format: bool = False
    has_masks: bool = False


class GroupStore:
    """Read access to a folder of groups: `len`, `records[i]`, and latents by sample and index, read lazily.

    Raises `UserError` naming the file when the manifest or a shard is missing or broken, and when these are not all the
    groups that the manifest tells of; `complete=False` opens such a folder, and `flaw` says what is the matter.
    """

    def __init__(self, folder: Path, complete: bool = True):
        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder)
        # By length first: by name alone shard-100000 would stand before shard-99999.
        self.shards = sorted(self.folder.glob("shard-*.safetensors"), key=lambda path: (len(path.name), path.name))
        if not self.shards:
            raise UserError(f"{self.folder}: holds no shards yet; run the command that began it again")
        self.records: list[GroupRecord] = []
        self._shapes: list[tuple[int, ...]] = []
        self._of_old_format: list[bool] = []
        self._has_masks: list[bool] = []
        self._where: list[tuple[int, int]] = []
        for index, path in enumerate(self.shards):
            shard = read_shard(path)
            self.records += shard.records
            self._shapes.append(shard.shape)
            self._of_old_format.append(shard.of_old_format)
            self._has_masks.append(shard.has_masks)
            # shards differ in length, so that no division leads from a record to its shard
            self._where += [(index, row) for row in range(len(shard.records))]
        # shuffled reading goes back and forth between shards, and a process may have so many files open
        self._open = lru_cache(maxsize=64)(_open_shard)
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
            same = self.manifest["groups_digest"] == count_and_digest(self.records)[1]
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
        sizes = {record.num_samples for record in self.records}
        return _KINDS[sizes.pop()] if sizes in ({1}, {2}) else "groups"

    @property
    def digest(self) -> str:
        """A digest of all groups, wherever the folder lies and under any name."""
        return digest_of_parts(f"{shard.name} {file_digest(shard)}" for shard in self.shards)

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
        return self._shapes[self._where[index][0]]

    @property
    def usual_shape(self) -> tuple[int, ...]:
        """The shape that most records have."""
        counts = Counter(self.shape(index) for index in range(len(self)))
        return counts.most_common(1)[0][0]

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """The distinct shapes of all latents."""
        return sorted(set(self._shapes))

    def latent(self, sample: Sample, index: int) -> Tensor:
        """The latent of one sample of one record; raises `UserError` when it holds values that are not finite."""
        record = self.records[index]
        latent = self._stored(record.place(sample), index)
        if not latent.isfinite().all():
            path = self.shards[self._where[index][0]]
            name = sample_name(record, record.place(sample))
            raise UserError(
                f"{path}: record {record.id}: its {name} holds values that are not finite; "
                f"'contrapose pairs check {self.folder}' names all of them"
            )
        return latent

    @property
    def has_masks(self) -> bool:
        """Whether any of its records says where its samples differ."""
        return any(self._has_masks)

    def has_mask(self, index: int) -> bool:
        """Whether a record says where its samples differ."""
        return self._has_masks[self._where[index][0]]

    def mask(self, index: int) -> Tensor:
        """Where the samples of a record that `has_mask` differ, from 0 to 1, [h, w] over its latents."""
        return self.mask_levels(index) / 255

    def mask_levels(self, index: int) -> Tensor:
        """The same as it is stored, in bytes from 0 to 255."""
        shard, row = self._where[index]
        levels: Tensor = self._open(self.shards[shard]).get_slice(_MASKS)[row]
        return levels

    def latents(self) -> Iterator[tuple[int, list[Tensor]]]:
        """Each record's number and the latents of its samples, as they are stored."""
        for index, record in enumerate(self.records):
            yield index, [self._stored(place, index) for place in range(record.num_samples)]

    def _stored(self, place: int, index: int) -> Tensor:
        shard, row = self._where[index]
        file = self._open(self.shards[shard])
        latent: Tensor
        # a slice reads one latent out of the file, and not the shard
        if self._of_old_format[shard]:
            latent = file.get_slice(_OLD_SIDES[place])[row]
        else:
            latent = file.get_slice(_LATENTS)[row, place]
        return latent


def sample_name(record: GroupRecord, place: int) -> str:
    """What a message calls a sample: winner or loser of a pair, else by its place, counted from 1."""
    if record.num_samples == 2:
        return "winner" if place == record.place("winner") else "loser"
    return f"sample {place + 1}"


def read_shard(path: Path) -> Shard:
    """What a shard's header tells; no latent is read.

    Raises `UserError` naming the file, and the record, when it is truncated or no shard of groups.
    """
    file = _open_shard(path)
    names = sorted(file.keys())
    if names in ([_LATENTS], [_LATENTS, _MASKS]):
        return _read_groups(path, file, _MASKS in names)
    if names == sorted(_OLD_SIDES):
        return _read_old_pairs(path, file)
    raise UserError(f"{path}: holds the tensors {', '.join(names) or 'none'}, not {_LATENTS}; {_AGAIN}")


def _read_groups(path: Path, file: Any, has_masks: bool) -> Shard:
    records = _records(path, file, parse_record)
    axes = _shape(path, file, _LATENTS, records)
    if len(axes) < 2:
        raise UserError(f"{path}: holds latents without an axis for the samples of a group; {_AGAIN}")
    num_samples = axes[1]
    for number, record in enumerate(records, 1):
        if record.num_samples != num_samples:
            raise UserError(
                f"{path}: record {number}: has {record.num_samples} labels for {num_samples} latents; {_AGAIN}"
            )
    shape = _checked_shape(path, axes[2:])
    if has_masks:
        of_masks = _shape(path, file, _MASKS, records, _MASK_DTYPES)[1:]
        if tuple(of_masks) != shape[1:]:
            raise UserError(f"{path}: its masks are of shape {of_masks}, and its latents {list(shape)}; {_AGAIN}")
    return Shard(path, records, shape, has_masks=has_masks)


def _read_old_pairs(path: Path, file: Any) -> Shard:
    records = _records(path, file, parse_old_record)
    winners, losers = (_shape(path, file, side, records) for side in _OLD_SIDES)
    if winners != losers:
        raise UserError(f"{path}: its winners and losers have different shapes; {_AGAIN}")
    return Shard(path, records, _checked_shape(path, winners[1:]), of_old_format=True)


def _shape(
    path: Path, file: Any, name: str, records: Sequence[GroupRecord], dtypes: Sequence[str] = _DTYPES
) -> list[int]:
    """The shape of a tensor with a row a record; raises `UserError` for other kinds and other numbers of rows."""
    tensor = file.get_slice(name)
    if tensor.get_dtype() not in dtypes:
        raise UserError(f"{path}: its tensor {name} is {tensor.get_dtype()}, not {', '.join(dtypes)}; {_AGAIN}")
    shape = tensor.get_shape() or [0]
    if shape[0] != len(records):
        raise UserError(f"{path}: its tensor {name} has {shape[0]} rows for {len(records)} records; {_AGAIN}")
    return list(shape)


def _checked_shape(path: Path, shape: Sequence[int]) -> tuple[int, ...]:
    if not shape or 0 in shape:
        raise UserError(f"{path}: holds latents of shape {list(shape)}, which are empty; {_AGAIN}")
    return tuple(shape)


def _open_shard(path: Path) -> Any:
    try:
        return safe_open(path, "pt")
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: truncated or broken ({error}); {_AGAIN}") from None


def _records(path: Path, file: Any, parse: Callable[[Any], GroupRecord]) -> list[GroupRecord]:
    try:
        entries = json.loads((file.metadata() or {})["records"])
    except (KeyError, ValueError, RecursionError):
        entries = None
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{path}: has no records in its header; {_AGAIN}")
    records = []
    for number, entry in enumerate(entries, start=1):
        try:
            records.append(parse(entry))
        except ValueError as error:
            raise UserError(f"{path}: record {number}: {error}; {_AGAIN}") from None
    return records


class Latents(Protocol):
    """A source of latents by sample and record: a store, or a mixture of several."""

    def latent(self, sample: Sample, index: int) -> Tensor: ...


def stack(store: Latents, sample: Sample, indices: Sequence[int]) -> Tensor:
    """The latents of one sample of several records of one shape, [b, ...]."""
    return torch.stack([store.latent(sample, index) for index in indices])
