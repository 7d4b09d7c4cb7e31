"""What drawing and importing pairs have in common: a claimed folder, shards of one size, killed runs carried on."""

from __future__ import annotations

import logging
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, overload

import cattrs
import numpy as np
import torch
from torch import Tensor

from contrapose import runfile
from contrapose.containers.left_out import LeftOut, write_left_out
from contrapose.errors import UserError
from contrapose.store.manifest import FORMAT, MANIFEST, MASKED_FORMAT, OLD_FORMAT, read_manifest
from contrapose.store.noted_digests import NotedDigests
from contrapose.store.record_table import Records
from contrapose.store.records import GroupRecord, count_and_digest
from contrapose.store.shard_files import SHARDS, read_shard, shard_path, write_shard
from contrapose.workers import ALONE, Worker

log = logging.getLogger(__name__)
S = TypeVar("S")


class SomeRecords(Sequence[GroupRecord]):
    """Some of many records, by their places, made when they are asked for."""

    def __init__(self, records: Sequence[GroupRecord], places: array[int]):
        self._records = records
        self._places = places

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> GroupRecord: ...

    @overload
    def __getitem__(self, index: slice) -> SomeRecords: ...

    def __getitem__(self, index: int | slice) -> GroupRecord | SomeRecords:
        if isinstance(index, slice):
            return SomeRecords(self._records, self._places[index])
        return self._records[self._places[index]]

    def __iter__(self) -> Iterator[GroupRecord]:
        if isinstance(self._records, Records):
            return iter(self._records.of(np.frombuffer(self._places, np.int64)))
        return map(self._records.__getitem__, self._places)


def by_size(
    records: Sequence[GroupRecord], sized: Iterable[S], sizes: Iterable[S], num: int
) -> list[tuple[S, Sequence[GroupRecord]]]:
    """The records of each file, at most `num`, with their size: a file holds one size and one n, so that they stack.

    `sized` are the sizes of all records in turn, and `sizes` the distinct ones in the order of their files.
    """
    alike: dict[S, dict[int, array[int]]] = {size: {} for size in sizes}
    for place, (size, num_samples) in enumerate(zip(sized, _nums_of_samples(records), strict=True)):
        alike[size].setdefault(num_samples, array("q")).append(place)
    files: list[tuple[S, Sequence[GroupRecord]]] = []
    for size, by_num_samples in alike.items():
        for places in by_num_samples.values():
            files += [(size, SomeRecords(records, places[first : first + num])) for first in range(0, len(places), num)]
    return files


def _nums_of_samples(records: Sequence[GroupRecord]) -> list[int]:
    if isinstance(records, Records):
        nums: list[int] = np.abs(records.kinds()).tolist()
        return nums
    return [record.num_samples for record in records]


def begin(
    out: Path,
    settings: dict[str, Any],
    conv: cattrs.Converter,
    fingerprint: str,
    records: Iterable[GroupRecord],
    left_out: Iterable[LeftOut],
    inputs: Mapping[str, str] | None = None,
    sources: Iterable[str] = (),
    masked: bool = False,
    has_shards: bool = False,
) -> None:
    """Claim `out` by `pairs.yaml` and write what was left out; `settings` is one entry, such as `draw` or `import`.

    `records` are all groups in the order of their shards, and are gone through once. `inputs` gives what the settings
    name (dotted, such as `draw.model`) with the digests of what lies there. `sources` are
    settings that name what the pairs themselves were read from; `masked` says that shards will hold masks too, and
    `has_shards` that they are there already, claimed by another file of settings. Raises `UserError` when `out` holds
    pairs of other settings, another model or other prompts, or of an older format.
    """
    version = read_manifest(out).get("format") if (out / MANIFEST).exists() else None
    if version == OLD_FORMAT:
        raise UserError(
            f"{out / MANIFEST}: is of format {OLD_FORMAT}, which this version reads and does not add to; "
            "delete the folder, or choose another --out"
        )
    if version == FORMAT and masked:
        raise UserError(
            f"{out / MANIFEST}: is of format {FORMAT}, whose shards have no masks; they can be used as they are, or "
            "delete this file and the shards beside it, and the same command encodes the pairs again, with masks"
        )
    num, digest = count_and_digest(records)
    manifest = {
        "format": MASKED_FORMAT if masked else FORMAT,
        "fingerprint": fingerprint,
        "num_groups": num,
        "groups_digest": digest,  # of the groups as they are planned, since shards may be changed or exchanged later
        **conv.unstructure(settings),
    }
    digests = {**(inputs or {}), **dict.fromkeys([*sources, "groups_digest"], digest)}  # told in this order
    free = ["num_groups", *(f"{name}.batch_size" for name in settings)]  # other pairs are told by what they come from
    for name, section in settings.items():
        if is_dataclass(section):  # the counts of the stages of photographs are none
            free += runfile.practical_names(section, f"{name}.")
    # the plan is claimed before the first shard, so that a killed run is carried on with the same groups alone
    runfile.claim(out / MANIFEST, manifest, conv, free, digests, [] if has_shards else [SHARDS])
    noted = read_manifest(out)["num_groups"]
    if noted != num:
        raise UserError(
            f"{out / MANIFEST}: num_groups is {noted}, not {num}; delete the folder, or choose another --out"
        )
    write_left_out(out, left_out)


def made_before(path: Path, planned: Sequence[GroupRecord], scored: bool = False) -> list[GroupRecord]:
    """The records of a shard that is there, which are the planned ones, but for their scores where it was `scored`.

    Raises `UserError` for a shard that is broken, or holds other groups.
    """
    stored = read_shard(path).records
    same = len(stored) == len(planned)
    for record, plan in zip(stored, planned, strict=False):
        same = same and (replace(record, scores=plan.scores) if scored else record) == plan
    if not same:
        raise UserError(f"{path}: holds other groups than were planned; delete it and run the same command again")
    return stored


def fill(
    out: Path,
    shards: Iterable[tuple[S, Sequence[GroupRecord]]],
    batch_size: int,
    make: Callable[[S, list[GroupRecord]], Tensor],
    masks: Callable[[S, list[GroupRecord]], Tensor | None] | None = None,
    worker: Worker = ALONE,
) -> Iterator[int]:
    """Write every shard that is missing, yielding the number of groups done; `make` gives latents [b, n, ...].

    `masks` gives what `write_shard` takes beside them, of a whole shard, or None where its groups have none. A worker
    that shares the folder writes what no other one does, and counts what they have written; it ends when all shards of
    its part are there.

    Raises `UserError` naming a shard that is there and broken, or holds groups that were not planned.
    """
    done = 0
    missing = False
    planned = set()
    notes = NotedDigests(out)
    files = ((shard_path(out, index), (index, size, shard)) for index, (size, shard) in enumerate(shards))
    for path, (index, size, of_file), task in worker.turns(files):
        shard = list(of_file)
        planned.add(path.name)
        if task == "look":
            made_before(path, shard)
        if task == "make":
            missing = True
            latents: list[Tensor] = []
            # batches end with their shard, so that the same groups go together whatever was there before
            for start in range(0, len(shard), batch_size):
                batch = shard[start : start + batch_size]
                latents.append(make(size, batch))
                yield done + start + len(batch)
            write_shard(out, index, shard, torch.cat(latents), masks(size, shard) if masks else None)
            notes.read([path])
        done += len(shard)
        yield done
    notes.keep()
    # of a longer plan that was here before: readers would take these for planned
    for path in sorted(out.glob("shard-*.safetensors")):
        if path.name not in planned:
            raise UserError(f"{path}: holds other groups than were planned; take it out of the folder")
    num_missing = len(planned) - sum(1 for _ in out.glob("shard-*.safetensors"))
    if num_missing:
        log.info(f"{out}: {num_missing} of {len(planned)} files are left to other parts")
    elif not missing:
        log.info(f"{out}: all pairs were there already")
