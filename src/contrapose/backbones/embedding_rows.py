"""The rows of embeddings on disk that one set of text encoders and settings has made, a few bytes of memory for each.

    <uuid>.safetensors    rows of up to 64 prompts, `<prompt's digest>.<name>`
    rows.index            which rows are in which of them, so that a million are known in a second

A shard is never changed once it has its name, so that one of the same name and size is the one that an index tells of;
those that it does not tell of are opened, and those that are gone are left out. A row is read by all of its digest, and
compared with its checksum: what an index tells wrongly is computed again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from contrapose.core.group import Condition
from contrapose.errors import UserError
from contrapose.files import CACHE
from contrapose.tensors import checksum, save_tensors

INDEX = "rows.index"
NO_PROMPT = "unconditional"  # beside the digests of prompts, which have 64 hexadecimal digits
Keys = np.ndarray[Any, np.dtype[np.uint64]]
_MANY = 256  # shards from which on an index is worth to be written
_RECENT = 1 << 16  # rows that are kept in a dictionary before they are sorted among the others
_GONE = -1  # in the place of a shard


def short_key(key: str) -> int:
    """The first 64 bits of a row's key, by which it is looked for."""
    if key == NO_PROMPT:
        return 0
    return int(key[:16], 16)


class _Shard(NamedTuple):
    path: Path
    names: tuple[str, ...]
    """Of each row's tensors."""
    share: float
    """Bytes of each row."""


class _Row(NamedTuple):
    shard: int
    checksum: int
    """CRC-32, or one that none is where the shard does not tell."""


class CachedRows:
    """The rows in `folder`, which goes by the settings."""

    def __init__(self, folder: Path, settings: str):
        self.folder = folder / hashlib.sha256(settings.encode()).hexdigest()[:16]
        self.settings = settings
        self._changed = 0  # when the folder last did, as far as is known, in nanoseconds
        self._sizes: dict[Path, int] = {}
        self._shards: list[_Shard] = []
        self._is_there: list[bool] = []  # each shard, as far as is known
        # rows sorted by their short keys, and those that came since; of equal keys the last counts
        self._keys: Keys = np.empty(0, np.uint64)
        self._places = np.empty(0, np.int32)
        self._checksums = np.empty(0, np.int64)
        self._sound = np.empty(0, bool)  # those that were read once and are what was written
        self._recent: dict[int, _Row] = {}
        self._recent_sound: set[int] = set()
        self._num_indexed = 0  # shards
        self._open = lru_cache(maxsize=64)(lambda path: safe_open(path, "pt"))
        self.look()

    @property
    def bytes(self) -> int:
        """What all shards take, broken ones too."""
        return sum(self._sizes.values())

    def look(self) -> None:
        """Take note of the shards that have come and gone."""
        self._changed = self._folder_changed()
        paths = set(self.folder.glob("*.safetensors"))
        if self._sizes.keys() - paths:
            self._sizes = {path: size for path, size in self._sizes.items() if path in paths}
            self._is_there = [shard.path in paths for shard in self._shards]
        if not self._sizes and len(paths) >= _MANY:
            self._read_index(paths)
        for path in sorted(paths - self._sizes.keys()):
            self._enter(path)

    def look_again(self) -> None:
        """The same where the folder has changed, but by what was written from here.

        Listing it takes a time that grows with all that is there, too much for every batch of prompts.
        """
        if self._folder_changed() != self._changed:
            self.look()

    def has(self, keys: Keys) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Whether there is a row of each of these short keys."""
        return self._shards_of(keys) != _GONE

    def bytes_of(self, keys: Keys) -> float:
        """What the rows of these short keys that are there take."""
        shards, counts = np.unique(self._shards_of(keys), return_counts=True)
        return sum(
            self._shards[shard].share * count
            for shard, count in zip(shards.tolist(), counts.tolist(), strict=True)
            if shard != _GONE
        )

    def read(self, key: str) -> Condition | None:
        """One row, or None where there is none that can be read; a shard with a row that has changed is removed."""
        short = short_key(key)
        row, is_sound = self._find(short)
        if row is None or not self._is_there[row.shard]:
            return None
        path, names, _ = self._shards[row.shard]
        try:
            shard = self._open(path)
            tensors = {name: shard.get_tensor(f"{key}.{name}") for name in names}
            if not is_sound and row.checksum != checksum(tensors):
                path.unlink(missing_ok=True)  # or it would be taken for there by everyone who settles
                raise SafetensorError(f"{path}: {key} is not what was written")
        except (SafetensorError, OSError):
            self._recent[short] = _Row(_GONE, 0)
            return None
        self._note_sound(short)
        return tensors

    def write(self, rows: Mapping[str, Condition]) -> None:
        """Add a shard; `UserError` when the folder cannot be written."""
        path = self.folder / f"{uuid4().hex}.safetensors"
        note = self.folder / "settings.txt"
        tensors = {f"{key}.{name}": value for key, row in rows.items() for name, value in row.items()}
        checksums = {key: str(checksum(row)) for key, row in rows.items()}
        alone = self._folder_changed() == self._changed
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not note.exists():
                note.write_text(f"{self.settings}\n", encoding="utf-8")
            save_tensors(path, tensors, checksums)
        except OSError as error:
            raise UserError(f"{self.folder}: cannot be written ({error}); set ${CACHE} to another folder") from error
        self._enter(path)
        if alone:
            self._changed = self._folder_changed()

    def keep_index(self) -> None:
        """Write the index, where that would save the next one to come from opening many shards."""
        if len(self._sizes) - self._num_indexed < _MANY:
            return
        self._merge()
        alone = self._folder_changed() == self._changed
        shards = [(shard.path.name, self._sizes.get(shard.path, 0), shard.names, shard.share) for shard in self._shards]
        tensors = {
            "keys": torch.from_numpy(self._keys.view(np.int64)),
            "places": torch.from_numpy(self._places),
            "checksums": torch.from_numpy(self._checksums),
        }
        with suppress(OSError, UserError):  # a full disk: what could not be noted is looked up again
            save_tensors(self.folder / INDEX, tensors, {"shards": json.dumps(shards), "check": str(checksum(tensors))})
            self._num_indexed = len(self._sizes)
        if alone:
            self._changed = self._folder_changed()

    def _read_index(self, paths: Iterable[Path]) -> None:
        """Take from the index what it tells of these shards; nothing where it is broken."""
        try:
            with safe_open(self.folder / INDEX, "pt") as file:
                tensors = {name: file.get_tensor(name) for name in ("keys", "places", "checksums")}
                notes = file.metadata() or {}
            if notes["check"] != str(checksum(tensors)):
                return
            shards = json.loads(notes["shards"])
        except (SafetensorError, OSError, KeyError, ValueError):
            return
        sizes: dict[str, int] = {}
        for path in paths:
            with suppress(OSError):  # another process may have removed it by now
                sizes[path.name] = path.stat().st_size
        for name, size, names, share in shards:
            path = self.folder / name
            self._shards.append(_Shard(path, tuple(names), share))
            self._is_there.append(sizes.get(name) == size)
            if self._is_there[-1]:
                self._sizes[path] = size
        self._keys = tensors["keys"].numpy().view(np.uint64)
        self._places = tensors["places"].numpy()
        self._checksums = tensors["checksums"].numpy()
        self._sound = np.zeros(len(self._keys), bool)
        self._num_indexed = len(self._sizes)

    def _folder_changed(self) -> int:
        try:
            return self.folder.stat().st_mtime_ns
        except OSError:
            return 0

    def _enter(self, path: Path) -> None:
        names: dict[str, list[str]] = {}
        checksums: dict[str, str] = {}
        try:
            self._sizes[path] = path.stat().st_size
            with safe_open(path, "pt") as shard:
                checksums = shard.metadata() or {}
                for entry in shard.keys():  # noqa: SIM118 (it is no mapping)
                    key, _, name = entry.partition(".")
                    names.setdefault(key, []).append(name)
            by_key = {short_key(key): _Row(len(self._shards), int(checksums.get(key, _GONE))) for key in names}
        except (SafetensorError, OSError, ValueError):
            return  # broken or gone: its prompts are computed again
        if not by_key:
            return
        share = self._sizes[path] / len(names)
        self._shards.append(_Shard(path, tuple(next(iter(names.values()))), share))
        self._is_there.append(True)
        self._recent |= by_key
        self._recent_sound -= by_key.keys()
        if len(self._recent) >= _RECENT:
            self._merge()

    def _merge(self) -> None:
        """Sort the recent rows among the others."""
        recent = self._recent
        keys = np.concatenate([self._keys, np.array([*recent], np.uint64)])
        # of equal keys the last one, as `sort` keeps their order
        order = np.argsort(keys, kind="stable")
        order = order[np.append(keys[order][1:] != keys[order][:-1], True)[: len(order)]]
        self._keys = keys[order]
        rows = recent.values()
        self._places = np.concatenate([self._places, np.array([row.shard for row in rows], np.int32)])[order]
        self._checksums = np.concatenate([self._checksums, np.array([row.checksum for row in rows], np.int64)])[order]
        sound = [key in self._recent_sound for key in recent]
        self._sound = np.concatenate([self._sound, np.array(sound, bool)])[order]
        self._recent = {}
        self._recent_sound = set()

    def _shards_of(self, keys: Keys) -> np.ndarray[Any, np.dtype[np.int32]]:
        """The shard of each of these rows, `_GONE` where there is none."""
        if len(keys) > _RECENT and self._recent:
            self._merge()
        shards = np.full(len(keys), _GONE, np.int32)
        if len(self._keys):
            places = np.searchsorted(self._keys, keys).clip(max=len(self._keys) - 1)
            is_known = self._keys[places] == keys
            shards[is_known] = self._places[places[is_known]]
        for place, key in enumerate(keys.tolist() if self._recent else ()):
            if key in self._recent:
                shards[place] = self._recent[key].shard
        is_there = np.array([*self._is_there, False])
        shards[~is_there[shards]] = _GONE
        return shards

    def _find(self, key: int) -> tuple[_Row | None, bool]:
        """A row by its short key, and whether it is known to be sound."""
        if key in self._recent:
            row = self._recent[key]
            return (None if row.shard == _GONE else row), key in self._recent_sound
        place = int(np.searchsorted(self._keys, np.uint64(key)))
        if place == len(self._keys) or int(self._keys[place]) != key or self._places[place] == _GONE:
            return None, False
        return _Row(int(self._places[place]), int(self._checksums[place])), bool(self._sound[place])

    def _note_sound(self, key: int) -> None:
        if key in self._recent:
            self._recent_sound.add(key)
        else:
            self._sound[np.searchsorted(self._keys, np.uint64(key))] = True
