"""The index of a folder of groups: its records in one file beside the shards, so that a million open in a second.

    FOLDER/records.arrow    the records as a stream of Arrow, what each shard is like, and 32 bytes that check it

The shards alone say what a folder holds. An index is believed where it was made of shards of these names, lengths and
headers, byte by byte, which are all that decides what is read of them; otherwise it is made again. Small folders have
none, and where the folder cannot be written, or its disk is full, it is in the user's cache or in memory. Of a folder
on another machine it is in the cache, and made of the versions of its shards.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO, NamedTuple

import pyarrow as pa

from contrapose.containers.images import several
from contrapose.containers.places import Place, Remote
from contrapose.errors import UserError
from contrapose.files import is_full, replacing
from contrapose.store.manifest import INDEX, places_of_notes
from contrapose.store.record_table import RecordTable, RecordWriter, read_table
from contrapose.store.records import RecordsDigest
from contrapose.store.shard_files import Shard, header_of, read_shard

LARGE = 10_000  # groups from which on a folder has an index: fewer are read in a tenth of a second
_VERSION = "1"
_CHECK = 32  # bytes at the end, sha256 of those before
_CHUNK = 1 << 20


class ShardKind(NamedTuple):
    """What the groups of a shard have in common, and how many they are."""

    num: int
    shape: tuple[int, ...]
    of_old_format: bool
    has_masks: bool


class Index(NamedTuple):
    """What the headers of all shards of a folder say."""

    records: RecordTable
    shards: list[ShardKind]
    digest: str
    """Of the records, as `pairs.yaml` knows them."""


def read_index(folder: Place, shards: Sequence[Place], num_planned: int) -> Index:
    """What the shards of a folder say, by its index where there is one to be believed; else it is made, if it is large.

    Raises `UserError` naming a shard that is broken, as `read_shard` does.
    """
    is_far = isinstance(folder, Remote)
    if not is_far and max(num_planned, len(shards)) < LARGE:
        return _in_memory(shards)
    made_of = _stamp(shards)
    places = places_of_notes(folder, INDEX)
    for place in places:
        index = _believed(place, made_of)
        if index is not None:
            return index
    for place in places:
        if _write(place, shards):
            # of shards as they are now, if they were exchanged meanwhile
            index = _believed(place, _stamp(shards))
            if index is not None:
                return index
    return _in_memory(shards)


def _stamp(shards: Sequence[Place]) -> str:
    """A digest of all that decides what the shards' headers say."""
    stamp = hashlib.sha256()
    for path in shards:
        stamp.update(_named_header(path))
    return stamp.hexdigest()


def _named_header(path: Place) -> bytes:
    return f"{path.name} ".encode() + header_of(path)


def _header_and_shard(path: Place) -> tuple[bytes, Shard]:
    # the header first: a shard that is exchanged in between is not that of the stamp
    return _named_header(path), read_shard(path)


def _believed(path: Path, made_of: str) -> Index | None:
    """The index at a path; None where there is none, or it is broken, of another version or of other shards."""
    try:
        with path.open("rb") as file:
            if not _is_whole(file):
                return None
        data = pa.memory_map(str(path)).read_buffer()
        records, notes = read_table(data.slice(0, data.size - _CHECK))
        if notes["version"] != _VERSION or notes["made_of"] != made_of:
            return None
        shards = [ShardKind(num, tuple(shape), *flags) for num, shape, *flags in json.loads(notes["shards"])]
        return Index(records, shards, notes["digest"])
    except (OSError, pa.ArrowException, KeyError, ValueError):
        return None


def _is_whole(file: IO[bytes]) -> bool:
    """Whether a file ends with the digest of what stands before; it is read in pieces."""
    left = os.fstat(file.fileno()).st_size - _CHECK
    digest = hashlib.sha256()
    while left > 0:
        chunk = file.read(min(left, _CHUNK))
        if not chunk:
            return False
        digest.update(chunk)
        left -= len(chunk)
    return file.read() == digest.digest()


def _write(path: Path, shards: Sequence[Place]) -> bool:
    """Write the index to a path; False where nothing can be written."""
    try:
        with replacing(path) as aside, aside.open("wb") as file:
            hashed = _Hashed(file)
            _build(hashed, shards)
            file.write(hashed.digest.digest())
    except OSError:
        return False
    except UserError as error:
        if error.__cause__ is None or not is_full(error.__cause__):
            raise
        return False
    return True


class _Hashed:
    """A file that is written, with the digest of all that was."""

    closed = False

    def __init__(self, file: IO[bytes]):
        self._file = file
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self._file.write(data)


def _in_memory(shards: Sequence[Place]) -> Index:
    sink = pa.BufferOutputStream()
    digest, kinds = _build(sink, shards)
    return Index(read_table(sink.getvalue())[0], kinds, digest)


def _build(sink: IO[bytes] | pa.NativeFile, shards: Sequence[Place]) -> tuple[str, list[ShardKind]]:
    """Write what the shards say, and return the records' digest and what each shard is like."""
    writer = RecordWriter(sink)
    stamp = hashlib.sha256()
    digest = RecordsDigest()
    kinds: list[ShardKind] = []
    is_far = any(isinstance(path, Remote) for path in shards)
    # what is elsewhere is asked for several at a time
    for header, shard in several(_header_and_shard, shards) if is_far else map(_header_and_shard, shards):
        stamp.update(header)
        kinds.append(ShardKind(len(shard.records), shard.shape, shard.of_old_format, shard.has_masks))
        for record in shard.records:
            writer.add(record)
            digest.add(record)
    notes = {"version": _VERSION, "made_of": stamp.hexdigest(), "digest": str(digest), "shards": json.dumps(kinds)}
    writer.finish(notes)
    return str(digest), kinds
