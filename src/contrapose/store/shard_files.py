"""Shards: files of groups, whole or absent, checked to the last field when they are read.

A shard is a safetensors file with `latents` [k, n, ...] of k groups of n samples, and its records as JSON in the
header, so that tensors and texts can never be out of step.

From format 4 on a shard may hold `masks` [k, h, w] over the latents [k, n, c, h, w]: where a group's samples differ,
from 0 to 255, the mean over a latent's pixels.

Folders of format 2, whose shards hold the tensors `winner` and `loser` [k, ...], are read as well.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from torch import Tensor

from contrapose.containers.places import Place, Remote
from contrapose.errors import UserError
from contrapose.store.records import GroupRecord, parse_old_record, parse_record
from contrapose.store.remote_shard import RemoteShard
from contrapose.tensors import COUNT, save_tensors

LATENTS = "latents"
MASKS = "masks"
SHARDS = "shard-*.safetensors"
OLD_SIDES = ("winner", "loser")  # the tensors of format 2, in the order of a pair's samples
_DTYPES = ("F16", "BF16", "F32")  # as safetensors names them
_MASK_DTYPES = ("U8",)
_AGAIN = "delete it and run the command that made it again"


def shard_path(folder: Path, index: int) -> Path:
    return folder / f"shard-{index:05d}.safetensors"


def shard_paths(folder: Place) -> list[Place]:
    """The shards that a folder holds, in the order of their numbers."""
    # By length first: by name alone shard-100000 would stand before shard-99999.
    shards: Iterable[Place] = folder.glob(SHARDS)
    return sorted(shards, key=lambda path: (len(path.name), path.name))


def header_of(path: Place) -> bytes:
    """Bytes that change whenever what `read_shard` says of a file does: how long it is, and its header.

    Of a file on another machine it is its version, as far as its keeper tells. Raises `UserError` where it cannot be
    read; a header that is broken is for `read_shard` to tell of.
    """
    try:
        if isinstance(path, Remote):
            return path.version().encode()
        with path.open("rb") as file:
            beginning = file.read(COUNT)
            length = int.from_bytes(beginning, "little")
            size = os.fstat(file.fileno()).st_size
            return f"{size} ".encode() + beginning + file.read(min(length, size))
    except OSError as error:
        raise UserError(f"{path}: truncated or broken ({error.strerror or error}); {_AGAIN}") from None


def write_shard(
    folder: Path, index: int, records: Sequence[GroupRecord], latents: Tensor, masks: Tensor | None = None
) -> None:
    """Write one shard of groups with latents [k, n, ...], and masks [k, h, w] of bytes if any, aside and renamed."""
    assert len(latents) == len(records)
    assert {record.num_samples for record in records} == {latents.shape[1]}, "groups of one n stack"
    entries = [{**vars(record), "scores": dict(record.scores)} for record in records]
    header = {"records": json.dumps(entries, ensure_ascii=False)}
    tensors = {LATENTS: latents}
    if masks is not None:
        tensors[MASKS] = masks
    save_tensors(shard_path(folder, index), tensors, header)


class Shard(NamedTuple):
    """One file of groups: its records in their order, and the shape of each of their samples' latents."""

    path: Place
    records: list[GroupRecord]
    shape: tuple[int, ...]
    of_old_format: bool = False
    has_masks: bool = False


def read_shard(path: Place) -> Shard:
    """What a shard's header tells; no latent is read.

    Raises `UserError` naming the file, and the record, when it is truncated or no shard of groups.
    """
    file = open_shard(path)
    names = sorted(file.keys())
    if names in ([LATENTS], [LATENTS, MASKS]):
        return _read_groups(path, file, MASKS in names)
    if names == sorted(OLD_SIDES):
        return _read_old_pairs(path, file)
    raise UserError(f"{path}: holds the tensors {', '.join(names) or 'none'}, not {LATENTS}; {_AGAIN}")


def _read_groups(path: Place, file: Any, has_masks: bool) -> Shard:
    records = _records(path, file, parse_record)
    axes = _shape(path, file, LATENTS, records)
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
        of_masks = _shape(path, file, MASKS, records, _MASK_DTYPES)[1:]
        if tuple(of_masks) != shape[1:]:
            raise UserError(f"{path}: its masks are of shape {of_masks}, and its latents {list(shape)}; {_AGAIN}")
    return Shard(path, records, shape, has_masks=has_masks)


def _read_old_pairs(path: Place, file: Any) -> Shard:
    records = _records(path, file, parse_old_record)
    winners, losers = (_shape(path, file, side, records) for side in OLD_SIDES)
    if winners != losers:
        raise UserError(f"{path}: its winners and losers have different shapes; {_AGAIN}")
    return Shard(path, records, _checked_shape(path, winners[1:]), of_old_format=True)


def _shape(
    path: Place, file: Any, name: str, records: Sequence[GroupRecord], dtypes: Sequence[str] = _DTYPES
) -> list[int]:
    """The shape of a tensor with a row a record; raises `UserError` for other kinds and other numbers of rows."""
    tensor = file.get_slice(name)
    if tensor.get_dtype() not in dtypes:
        raise UserError(f"{path}: its tensor {name} is {tensor.get_dtype()}, not {', '.join(dtypes)}; {_AGAIN}")
    shape = tensor.get_shape() or [0]
    if shape[0] != len(records):
        raise UserError(f"{path}: its tensor {name} has {shape[0]} rows for {len(records)} records; {_AGAIN}")
    return list(shape)


def _checked_shape(path: Place, shape: Sequence[int]) -> tuple[int, ...]:
    if not shape or 0 in shape:
        raise UserError(f"{path}: holds latents of shape {list(shape)}, which are empty; {_AGAIN}")
    return tuple(shape)


def open_shard(path: Place) -> Any:
    """A shard whose tensors can be read; `UserError` for one that is truncated or broken."""
    try:
        return RemoteShard(path) if isinstance(path, Remote) else safe_open(path, "pt")
    except (SafetensorError, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: truncated or broken ({reason}); {_AGAIN}") from None


def _records(path: Place, file: Any, parse: Callable[[Any], GroupRecord]) -> list[GroupRecord]:
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
