"""Text embeddings, read once per distinct prompt and shared on disk by every run with the same text encoders.

    <cache>/embeddings/<digest of the settings>/settings.txt    the settings, for a person to read
                                                and the rows, as `embedding_rows.py` keeps them

Shards of rows are written aside, renamed, and never changed, so that any number of processes may read and write at
once: at worst a row is there twice. One that is broken counts as absent, and so does a row that is not what was
written.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import compress, islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from torch import Tensor

from contrapose.backbones.embedding_rows import NO_PROMPT, CachedRows, Keys, short_key
from contrapose.core.group import Condition, join
from contrapose.errors import UserError
from contrapose.files import users_cache
from contrapose.progress import Progress, untold

if TYPE_CHECKING:
    from contrapose.backbones.text import TextReader

GIGABYTE = 10**9
SMALL_ENCODERS = 2 * GIGABYTE  # may stay in memory for a whole training; CLIPs do, T5 and language models do not
IN_MEMORY = 1 << 30  # bytes of embeddings that are kept where the cache has no room for them
AT_ONCE = 64  # prompts that go through the text encoders together, and into one shard
_IN_TURN = 4096  # prompts that are looked for together


def cache_folder() -> Path:
    """Where embeddings are kept: under $CONTRAPOSE_CACHE, else in the user's cache."""
    return users_cache() / "embeddings"


class Settled(NamedTuple):
    """How the embeddings of a run's prompts are had; `num_new` were read for this, the others were there before."""

    num_prompts: int
    num_new: int
    gigabytes: float
    encoders_needed: bool
    num_left: int = 0
    """Prompts that were lacking and are left to other processes."""
    need: str = ""
    """Why the text encoders are needed."""

    @property
    def line(self) -> str:
        """All of it in a sentence, for the user."""
        if self.encoders_needed:
            return f"{self.num_prompts} prompts: {self.need}"
        size = _told(self.gigabytes * GIGABYTE)
        message = f"embeddings in the cache ({size}, {self.num_new} new); text encoders leave memory"
        return f"{self.num_prompts} prompts: {message}"


class Embeddings:
    """Conditions by prompt, on the CPU: from the cache, or computed and added to it while it is within its limit.

    `limit` is in gigabytes and counts everything that the cache holds of these encoders and settings.
    """

    def __init__(self, text: TextReader, limit: float = 50.0, folder: Path | None = None):
        self.text = text
        self.limit = limit
        self._folder = cache_folder() if folder is None else folder
        self._rows = CachedRows(self._folder, text.settings)
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

    def settle(
        self,
        prompts: Iterable[str],
        progress: Progress = untold,
        number: int = 0,
        of: int = 1,
    ) -> Settled:
        """Read all prompts and the unconditional row into the cache; where that is too small, small encoders stay.

        Of several processes that settle the same prompts this one, of its number, reads its share of the missing.
        `progress` is told how many of these are done, where any are missing. Raises `UserError` where large encoders
        would have to stay.
        """
        self._follow_encoders()
        self._rows.look()
        wanted, missing = self._sorted_out(prompts)
        # by what the prompts are: what is missing may be less by the time at which another process looks
        mine = [text for text in missing if short_key(_key(text)) % of == number]
        # Lengths differ, and files are often sorted: the sample is spread over all that is missing.
        step = -(-len(mine) // AT_ONCE) or 1
        sample = self._compute(_by_key(mine[::step])) if mine else {}
        extra = _bytes(sample) / max(1, len(sample)) * len(missing)
        self._writing = not mine or self._rows.bytes + extra <= self.limit * GIGABYTE
        if not self._writing:
            self._remember(sample)
            return self._stay(len(wanted), self._rows.bytes_of(wanted), extra)
        if mine:
            rest = (text for place, text in enumerate(mine) if place % step)
            with progress("reading prompts") as bar:
                self._read(sample, rest, len(mine), bar)
        self.unconditional()
        self._rows.keep_index()
        self._encoders_may_leave = True
        gigabytes = self._rows.bytes_of(wanted) / GIGABYTE
        return Settled(len(wanted), len(mine), gigabytes, False, num_left=len(missing) - len(mine))

    def _read(
        self, rows: dict[str, Condition], rest: Iterator[str], total: int, bar: Callable[[int, int], None] | None
    ) -> None:
        """Write the rows that are there, then those of the other prompts."""
        done = 0
        while rows:
            self._rows.write(rows)
            done += len(rows)
            if bar:
                bar(done, total)
            texts = _by_key(islice(rest, AT_ONCE))
            rows = self._compute(texts) if texts else {}

    def _sorted_out(self, prompts: Iterable[str]) -> tuple[Keys, list[str]]:
        """The short keys of all distinct prompts, and in their order those that have no row."""
        keys: list[Keys] = []
        missing: list[str] = []
        prompts = iter(prompts)
        while texts := list(islice(prompts, _IN_TURN)):
            of_texts = np.array([short_key(_key(text)) for text in texts], np.uint64)
            keys.append(of_texts)
            missing += compress(texts, ~self._rows.has(of_texts))
        wanted = np.unique(np.concatenate(keys)) if keys else np.empty(0, np.uint64)
        return wanted, list(dict.fromkeys(missing))

    def _stay(self, num_prompts: int, cached: float, extra: float) -> Settled:
        size = cached + extra
        encoders = self.text.encoder_bytes
        needs = f"would take {_told(size)}"
        if size <= self.limit * GIGABYTE:  # what is over the limit is what lies there of other models
            needs += f" beside {_told(self._rows.bytes - cached)} of others in {self._rows.folder}"
        message = f"embeddings {needs}, over the limit of {self.limit:g} GB"
        if encoders > SMALL_ENCODERS:
            fix = "raise --cache-limit, shorten --text-length, or use fewer prompts"
            problem = f"text encoders of {_told(encoders)} are too large to stay in memory"
            raise UserError(f"{num_prompts} prompts: {message}, and {problem}: {fix}")
        need = f"{message}: the text encoders ({_told(encoders)}) stay in memory instead"
        return Settled(num_prompts, 0, size / GIGABYTE, True, need=need)

    def _follow_encoders(self) -> None:
        """Turn to the rows of the encoders as they are by now: adapters may have come or gone since the last call."""
        settings = self.text.settings
        if settings != self._rows.settings:
            self._rows = CachedRows(self._folder, settings)
            self._memory.clear()
            self._memory_bytes = 0

    def _find(self, wanted: Mapping[str, str]) -> dict[str, Condition]:
        """Rows by key, computed and kept where they are in neither memory nor cache."""
        rows = self._recall(wanted)
        if self._writing and len(rows) < len(wanted):
            self._rows.look_again()  # another process may have added them
            rows = self._recall(wanted)
        absent = [(key, prompt) for key, prompt in wanted.items() if key not in rows]
        for first in range(0, len(absent), AT_ONCE):
            new = self._compute(dict(absent[first : first + AT_ONCE]))
            fits = self._writing and self._rows.bytes + _bytes(new) <= self.limit * GIGABYTE
            (self._rows.write if fits else self._remember)(new)
            rows |= new
        return rows

    def _recall(self, keys: Iterable[str]) -> dict[str, Condition]:
        rows = {key: self._memory.get(key) or self._rows.read(key) for key in keys}
        self._memory |= {key: self._memory.pop(key) for key in rows if key in self._memory}  # they become the latest
        return {key: row for key, row in rows.items() if row}

    def _remember(self, rows: Mapping[str, Condition]) -> None:
        self._memory_bytes += _bytes({key: row for key, row in rows.items() if key not in self._memory})
        self._memory |= rows
        while self._memory_bytes > IN_MEMORY:
            self._memory_bytes -= _bytes(dict([self._memory.popitem(last=False)]))

    def _compute(self, prompts: Mapping[str, str]) -> dict[str, Condition]:
        if self._encoders_may_leave and not self.text.encoder_bytes:
            raise UserError(f"{self._rows.folder}: embeddings were there and are gone; run the same command again")
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


def _key(prompt: str | None) -> str:
    if prompt is None:
        return NO_PROMPT
    return hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()


def _by_key(prompts: Iterable[str]) -> dict[str, str]:
    return {_key(prompt): prompt for prompt in prompts}


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
