"""Text embeddings, read once per distinct prompt and shared on disk by every run with the same text encoders.

    <cache>/embeddings/<digest of the settings>/settings.txt        the settings, for a person to read
                                                <uuid>.safetensors  rows of up to 64 prompts, `<prompt's digest>.<name>`

A shard is written aside, renamed, and never changed, so that any number of processes may read and write at once: at
worst a row is there twice. One that is broken counts as absent, and so does a row that is not what was written.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from uuid import uuid4

from safetensors import SafetensorError, safe_open
from torch import Tensor

from contrapose.core.group import Condition, join
from contrapose.errors import UserError
from contrapose.files import CACHE, users_cache
from contrapose.tensors import checksum, save_tensors

if TYPE_CHECKING:
    from contrapose.backbones.text import TextReader

GIGABYTE = 10**9
SMALL_ENCODERS = 2 * GIGABYTE  # may stay in memory for a whole training; CLIPs do, T5 and language models do not
IN_MEMORY = 1 << 30  # bytes of embeddings that are kept where the cache has no room for them
AT_ONCE = 64  # prompts that go through the text encoders together, and into one shard
NO_PROMPT = "unconditional"  # beside the digests of prompts, which have 64 hexadecimal digits


def cache_folder() -> Path:
    """Where embeddings are kept: under $CONTRAPOSE_CACHE, else in the user's cache."""
    return users_cache() / "embeddings"


class Settled(NamedTuple):
    """How the embeddings of a run's prompts are had; `num_new` were read for this, the others were there before."""

    num_prompts: int
    num_new: int
    gigabytes: float
    encoders_needed: bool
    line: str  # all of it in a sentence, for the user


class Embeddings:
    """Conditions by prompt, on the CPU: from the cache, or computed and added to it while it is within its limit.

    `limit` is in gigabytes and counts everything that the cache holds of these encoders and settings.
    """

    def __init__(self, text: TextReader, limit: float = 50.0, folder: Path | None = None):
        self.text = text
        self.limit = limit
        self._folder = cache_folder() if folder is None else folder
        self._shards = _Shards(self._folder, text.settings)
        self._memory: OrderedDict[str, Condition] = OrderedDict()  # the latest at the end
        self._memory_bytes = 0
        self._writing = True
        self._encoders_may_leave = False

    def __call__(self, prompts: Sequence[str | None]) -> Condition:
        """The condition of these prompts, None being none, stacked in order and padded to the longest of them."""
        self._follow_encoders()
        rows = self._find({_key(prompt): prompt for prompt in prompts if prompt is not None})
        if None in prompts:
            rows |= self._find({NO_PROMPT: ""})
        return join([rows[_key(prompt)] for prompt in prompts])

    def unconditional(self) -> Condition:
        """What stands for no prompt, one row."""
        return self([None])

    def settle(self, prompts: Iterable[str], progress: Callable[[int, int], None] | None = None) -> Settled:
        """Read all prompts and the unconditional row into the cache; where that is too small, small encoders stay.

        `progress` hears how many of the missing are done. Raises `UserError` where large encoders would have to stay.
        """
        self._follow_encoders()
        wanted = {_key(prompt): prompt for prompt in prompts}
        self._shards.look()
        missing = {key: prompt for key, prompt in wanted.items() if key not in self._shards.places}
        # Lengths differ, and files are often sorted: the sample is spread over all that is missing.
        spread = dict(list(missing.items())[:: -(-len(missing) // AT_ONCE) or 1])
        sample = self._compute(spread) if spread else {}
        extra = _bytes(sample) / max(1, len(sample)) * len(missing)
        self._writing = not missing or self._shards.bytes + extra <= self.limit * GIGABYTE
        if not self._writing:
            self._remember(sample)
            return self._stay(len(wanted), self._shards.bytes_of(wanted), extra)
        rest = {key: prompt for key, prompt in missing.items() if key not in sample}
        done = 0
        for rows in filter(None, chain([sample], map(self._compute, _chunks(rest)))):
            self._shards.write(rows)
            done += len(rows)
            if progress:
                progress(done, len(missing))
        self.unconditional()
        self._encoders_may_leave = True
        size = self._shards.bytes_of(wanted)
        message = f"embeddings in the cache ({_told(size)}, {len(missing)} new); text encoders leave memory"
        return Settled(len(wanted), len(missing), size / GIGABYTE, False, f"{len(wanted)} prompts: {message}")

    def _stay(self, num_prompts: int, cached: float, extra: float) -> Settled:
        size = cached + extra
        encoders = self.text.encoder_bytes
        needs = f"would take {_told(size)}"
        if size <= self.limit * GIGABYTE:  # what is over the limit is what lies there of other models
            needs += f" beside {_told(self._shards.bytes - cached)} of others in {self._shards.folder}"
        message = f"{num_prompts} prompts: embeddings {needs}, over the limit of {self.limit:g} GB"
        if encoders > SMALL_ENCODERS:
            fix = "raise --cache-limit, shorten --text-length, or use fewer prompts"
            raise UserError(f"{message}, and text encoders of {_told(encoders)} are too large to stay in memory: {fix}")
        line = f"{message}: the text encoders ({_told(encoders)}) stay in memory instead"
        return Settled(num_prompts, 0, size / GIGABYTE, True, line)

    def _follow_encoders(self) -> None:
        """Turn to the rows of the encoders as they are by now: adapters may have come or gone since the last call."""
        settings = self.text.settings
        if settings != self._shards.settings:
            self._shards = _Shards(self._folder, settings)
            self._memory.clear()
            self._memory_bytes = 0

    def _find(self, wanted: Mapping[str, str]) -> dict[str, Condition]:
        """Rows by key, computed and kept where they are in neither memory nor cache."""
        rows = self._recall(wanted)
        if self._writing and len(rows) < len(wanted):
            self._shards.look_again()  # another process may have added them
            rows = self._recall(wanted)
        for chunk in _chunks({key: prompt for key, prompt in wanted.items() if key not in rows}):
            new = self._compute(chunk)
            fits = self._writing and self._shards.bytes + _bytes(new) <= self.limit * GIGABYTE
            (self._shards.write if fits else self._remember)(new)
            rows |= new
        return rows

    def _recall(self, keys: Iterable[str]) -> dict[str, Condition]:
        rows = {key: self._memory.get(key) or self._shards.read(key) for key in keys}
        self._memory |= {key: self._memory.pop(key) for key in rows if key in self._memory}  # they become the latest
        return {key: row for key, row in rows.items() if row}

    def _remember(self, rows: Mapping[str, Condition]) -> None:
        self._memory_bytes += _bytes({key: row for key, row in rows.items() if key not in self._memory})
        self._memory |= rows
        while self._memory_bytes > IN_MEMORY:
            self._memory_bytes -= _bytes(dict([self._memory.popitem(last=False)]))

    def _compute(self, prompts: Mapping[str, str]) -> dict[str, Condition]:
        if self._encoders_may_leave and not self.text.encoder_bytes:
            raise UserError(f"{self._shards.folder}: embeddings were there and are gone; run the same command again")
        texts = list(prompts.values())
        read = self.text.unconditional() if NO_PROMPT in prompts else self.text.embed(texts)
        rows = dict(zip(prompts, _rows(read), strict=True))
        for key, row in rows.items():
            if not all(bool(value.isfinite().all()) for value in row.values()):
                raise UserError(
                    f"prompt {prompts[key]!r:.60}: the text encoders give numbers that are not finite; use another "
                    "precision"
                )
        return rows


class _Place(NamedTuple):
    path: Path
    names: tuple[str, ...]
    bytes: float
    checksum: str | None


class _Shards:
    """The rows on disk that one set of encoders and settings has made."""

    def __init__(self, folder: Path, settings: str):
        self.folder = folder / hashlib.sha256(settings.encode()).hexdigest()[:16]
        self.settings = settings
        self._changed = 0  # when the folder last did, as far as is known, in nanoseconds
        self._sound: set[str] = set()  # keys of rows that were read once and are what was written
        self._sizes: dict[Path, int] = {}
        self.places: dict[str, _Place] = {}
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
        gone = self._sizes.keys() - paths
        if gone:
            self._sizes = {path: size for path, size in self._sizes.items() if path in paths}
            self.places = {key: place for key, place in self.places.items() if place.path in paths}
        for path in paths - self._sizes.keys():
            self._enter(path)

    def look_again(self) -> None:
        """The same where the folder has changed, but by what was written from here.

        Listing it takes a time that grows with all that is there, too much for every batch of prompts.
        """
        if self._folder_changed() != self._changed:
            self.look()

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
        except (SafetensorError, OSError):
            return  # broken or gone: its prompts are computed again
        share = self._sizes[path] / max(1, len(names))
        for key, tensors in names.items():
            self.places[key] = _Place(path, tuple(tensors), share, checksums.get(key))

    def bytes_of(self, keys: Iterable[str]) -> float:
        """What the rows that are there take."""
        return sum(self.places[key].bytes for key in keys if key in self.places)

    def read(self, key: str) -> Condition | None:
        """One row, or None where there is none that can be read; a shard with a row that has changed is removed."""
        place = self.places.get(key)
        if place is None:
            return None
        try:
            shard = self._open(place.path)
            row = {name: shard.get_tensor(f"{key}.{name}") for name in place.names}
            if key not in self._sound and place.checksum != str(checksum(row)):
                place.path.unlink(missing_ok=True)  # or it would be taken for there by everyone who settles
                raise SafetensorError(f"{place.path}: {key} is not what was written")
        except (SafetensorError, OSError):
            del self.places[key]
            return None
        self._sound.add(key)
        return row

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


def _key(prompt: str | None) -> str:
    if prompt is None:
        return NO_PROMPT
    return hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()


def _chunks(prompts: Mapping[str, str]) -> Iterator[dict[str, str]]:
    items = list(prompts.items())
    return (dict(items[first : first + AT_ONCE]) for first in range(0, len(items), AT_ONCE))


def _rows(condition: Condition) -> list[Condition]:
    """Conditions of one row each, without padding, that do not keep the whole batch in memory."""
    batch = {name: value.cpu() for name, value in condition.items()}
    num_rows = len(next(iter(batch.values())))
    lengths = batch["length"].tolist() if "length" in batch else [None] * num_rows
    rows: list[Condition] = []
    for place, length in enumerate(lengths):
        row: dict[str, Tensor] = {}
        for name, value in batch.items():
            is_padded = value.is_floating_point() and value.ndim >= 3
            part = value[place : place + 1, :length] if is_padded else value[place : place + 1]
            row[name] = part.clone()
        rows.append(row)
    return rows


def _bytes(rows: Mapping[str, Condition]) -> int:
    return sum(value.nbytes for row in rows.values() for value in row.values())


def _told(size: float) -> str:
    return f"{size / GIGABYTE:.2f} GB" if size >= GIGABYTE / 200 else "under 0.01 GB"
