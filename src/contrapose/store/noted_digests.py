"""Digests of a large folder's shards, noted beside them, so that its latents are not read again each time it is named.

    FOLDER/digests.json    of each shard its size, its times and the digest of its bytes, and 64 digits that check them

A digest is believed while the shard has the size and the times that it had when its bytes were read: those of its
content and of its entry in the file system, in nanoseconds. Whoever writes a shard notes it, and so does whoever reads
one that is not noted as it is. Small folders have no such file; where the folder cannot be written, it is in the user's
cache, or nowhere, and the shards are read again. Of a folder on another machine the versions of its files are taken.

What this does not see is another shard of the same name, size and times, as on disks that decay or are built with fixed
times, and on those that count whole seconds within one of them; `pairs check` reads all bytes and tells of it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from contrapose.containers.images import several
from contrapose.containers.places import Place, file_digest_at
from contrapose.contents import digest_of_json, file_digest
from contrapose.errors import UserError
from contrapose.files import claimed, replacing
from contrapose.store.manifest import DIGESTS, places_of_notes

log = logging.getLogger(__name__)
LARGE = 1 << 28  # bytes of shards from which on their digests are noted: fewer are read in half a second
_LONG = 1 << 32  # bytes that take long enough to read that it is told, and after which what was read is written down


class _Standing(NamedTuple):
    """What changes whenever a shard does."""

    name: str
    size: int
    changed: int
    """When its content last changed, in nanoseconds."""
    entered: int
    """When its entry in the file system last did, which no program can set."""

    @classmethod
    def of(cls, path: Path) -> _Standing:
        status = path.stat()
        return cls(path.name, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


class NotedDigests:
    """The digests of a folder's shards, as far as they were noted, and those that are added to them."""

    def __init__(self, folder: Path):
        self._places = places_of_notes(folder, DIGESTS)
        self._known: dict[_Standing, str] = {}
        for place in self._places:
            self._known |= _read(place)
        self._new: dict[_Standing, str] = {}  # which no file has yet
        self._num_new_bytes = 0

    def of(self, path: Path) -> str | None:
        """The digest of a shard that stands as it did when it was noted; None of any other."""
        return self._known.get(_Standing.of(path))

    def read(self, paths: Sequence[Path]) -> None:
        """Read these shards, several at a time, and note their digests."""
        num_bytes = sum(path.stat().st_size for path in paths)
        if num_bytes >= _LONG:
            log.info(f"{paths[0].parent}: reading {num_bytes / 1e9:.0f} GB of groups once, to know them again")
        for standing, digest in several(_looked, paths):
            self._known[standing] = digest
            self._new[standing] = digest
            self._num_new_bytes += standing.size
            if self._num_new_bytes >= _LONG:
                self.keep()

    def keep(self) -> None:
        """Write what was added, beside what others have meanwhile, where all known shards together are large."""
        self._num_new_bytes = 0
        if not self._new or sum(standing.size for standing in self._known) < LARGE:
            return
        replaced = {standing.name for standing in self._new}
        for place in self._places:
            # what cannot be written, as on a full disk, is read again
            with suppress(OSError, UserError), claimed(place, wait=True):
                together = self._known | _read(place)
                kept = {standing: digest for standing, digest in together.items() if standing.name not in replaced}
                rows = [[*standing, digest] for standing, digest in sorted((kept | self._new).items())]
                with replacing(place) as aside:
                    aside.write_text(json.dumps([digest_of_json(rows), rows]), encoding="ascii")
                self._new = {}
                return


def shard_digests(folder: Place, shards: Sequence[Place]) -> list[str]:
    """The digest of each shard of a folder; those that are noted are not read."""
    if not isinstance(folder, Path):
        return [file_digest_at(shard) for shard in shards]
    paths = [folder / shard.name for shard in shards]
    notes = NotedDigests(folder)
    try:
        notes.read([path for path in paths if notes.of(path) is None])
    finally:
        notes.keep()
    # one that was changed while it was read is read again
    return [notes.of(path) or file_digest(path) for path in paths]


def changed_shards(folder: Place, shards: Sequence[Place]) -> list[str]:
    """The names of shards whose bytes are not what was noted, though size and times are: a disk has changed them.

    All bytes are read, where there are notes of them or they are many, and noted as they are.
    """
    if not isinstance(folder, Path):
        return []
    paths = [folder / shard.name for shard in shards]
    notes = NotedDigests(folder)
    before = [notes.of(path) for path in paths]
    if not any(before) and sum(path.stat().st_size for path in paths) < LARGE:
        return []
    notes.read(paths)
    notes.keep()
    pairs = zip(paths, before, strict=True)
    return [path.name for path, noted in pairs if noted is not None and notes.of(path) != noted]


def _looked(path: Path) -> tuple[_Standing, str]:
    # its standing first: a shard that is exchanged in between is not that of the note
    return _Standing.of(path), file_digest(path)


def _read(place: Path) -> dict[_Standing, str]:
    """What a file of notes tells; nothing where it is broken or absent."""
    with suppress(OSError, ValueError, TypeError):
        check, rows = json.loads(place.read_text(encoding="ascii"))
        if check == digest_of_json(rows):
            return {_Standing(*standing): digest for *standing, digest in rows}
    return {}
