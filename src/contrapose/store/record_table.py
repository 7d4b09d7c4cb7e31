"""Records of groups as columns of Arrow, in a file that is mapped or in memory: a record is made when it is asked for.

Beside what a record says there are numbers that tell records apart without it: what kind of group it is, and a key for
each of its texts, of as many bits as an identifier has.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import tempfile
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa

from contrapose.containers.spool import MadeWhenAsked
from contrapose.files import naming_a_full_disk
from contrapose.store.records import GroupRecord

Numbers = np.ndarray[Any, np.dtype[Any]]
_TEXTS = ("id", "prompt", "degraded")
_SAID = "said"  # labels and scores as JSON, which keeps whole numbers whole
_SCHEMA = pa.schema(
    [
        *[(name, pa.string()) for name in _TEXTS],
        ("seed", pa.int64()),
        (_SAID, pa.string()),
        ("kind", pa.int32()),
        ("id_key", pa.uint64()),
        ("prompt_key", pa.uint64()),
        ("degraded_key", pa.uint64()),
    ]
)
_BATCH = 4096  # records in one piece of a table
_BATCH_BYTES = 1 << 26  # of texts, beyond which a piece has fewer: Arrow counts to 2 GB in one
_TO_JSON = json.JSONEncoder(ensure_ascii=False).encode
_RECENT = 4096  # records that are kept, since one is asked for several times in a row


class Records(MadeWhenAsked[GroupRecord]):
    """Records in their order, each made when it is asked for; what is said of all of them comes as numbers."""

    def __init__(self) -> None:
        self._recent = lru_cache(maxsize=_RECENT)(self._made)
        self._sorted = lru_cache(self._order)

    @abstractmethod
    def _made(self, index: int) -> GroupRecord:
        """One record, of an index that there is."""

    @abstractmethod
    def of(self, indices: Numbers) -> list[GroupRecord]:
        """Several records; indices that rise are read fastest."""

    @abstractmethod
    def texts(self, name: str, indices: Numbers | None = None) -> Iterator[str]:
        """One text of every record, or of these."""

    @abstractmethod
    def keys(self, name: str) -> Numbers:
        """64 bits for one text of every record: two texts of a million share one by a chance of 3 in 10^8."""

    @abstractmethod
    def seeds(self) -> Numbers:
        """The seed of every record."""

    @abstractmethod
    def kinds(self) -> Numbers:
        """By record, its number of samples, and -1 for a lone dislike."""

    def one(self, index: int) -> GroupRecord:
        return self._recent(index)

    def some(self, indices: range) -> list[GroupRecord]:
        return self.of(np.arange(indices.start, indices.stop, indices.step))

    def __iter__(self) -> Iterator[GroupRecord]:
        for first in range(0, len(self), _BATCH):
            yield from self.of(np.arange(first, min(first + _BATCH, len(self))))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or len(self) != len(other):
            return False
        return all(record == same for record, same in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def find(self, name: str, text: str) -> int:
        """The first record with this text, of which there is one."""
        order, keys = self._sorted(name)
        place = int(np.searchsorted(keys, np.uint64(key_of(text))))
        # nearly always the first one: other texts may share a key
        while getattr(self[int(order[place])], name) != text:
            place += 1
        return int(order[place])

    def _order(self, name: str) -> tuple[Numbers, Numbers]:
        """The records by the key of one text, of equal ones in turn, and these keys."""
        keys = self.keys(name)
        order = np.argsort(keys, kind="stable")
        return order, keys[order]

    def repeated_texts(self, name: str) -> list[str]:
        """The texts of this name that several records have, as they come."""
        texts = Counter(self.texts(name, repeated(self.keys(name))))
        return [text for text, count in texts.items() if count > 1]

    def num_distinct(self, name: str) -> int:
        """How many different texts of this name there are."""
        return len(np.unique(self.keys(name)))

    def distinct_texts(self, names: Sequence[str]) -> Iterator[str]:
        """Every distinct text of these names, a record after another, as they come."""
        firsts = first_of_each(np.stack([self.keys(name) for name in names], 1).reshape(-1))
        for start in range(0, len(firsts), _BATCH):
            indices, columns = np.divmod(firsts[start : start + _BATCH], len(names))
            by_name = [self.texts(name, indices[columns == column]) for column, name in enumerate(names)]
            for column in columns.tolist():
                yield next(by_name[column])


class RecordTable(Records):
    """The records of one table."""

    def __init__(self, batches: Iterable[pa.RecordBatch]):
        super().__init__()
        self._batches = list(batches)
        self._ends = np.cumsum([batch.num_rows for batch in self._batches], dtype=np.int64)

    @classmethod
    def holding(cls, records: Iterable[GroupRecord]) -> RecordTable:
        """These records, in a file without a name that goes with the table; `UserError` where the disk is full."""
        with tempfile.TemporaryFile() as file, naming_a_full_disk(Path(tempfile.gettempdir())):
            writer = RecordWriter(file)
            for record in records:
                writer.add(record)
            writer.finish({})
            file.flush()
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return read_table(pa.py_buffer(mapped))[0]

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def _made(self, index: int) -> GroupRecord:
        number, row = piece_of(index, self._ends)
        return _records(self._batches[number].slice(row, 1))[0]

    def of(self, indices: Numbers) -> list[GroupRecord]:
        records: list[GroupRecord] = []
        for batch, rows in self._pieces(indices):
            records += _records(batch.take(pa.array(rows)))
        return records

    def texts(self, name: str, indices: Numbers | None = None) -> Iterator[str]:
        if indices is None:
            for batch in self._batches:
                yield from batch.column(name).to_pylist()
            return
        for batch, rows in self._pieces(indices):
            yield from batch.column(name).take(pa.array(rows)).to_pylist()

    def keys(self, name: str) -> Numbers:
        return self._numbers(f"{name}_key", np.uint64)

    def seeds(self) -> Numbers:
        return self._numbers("seed", np.int64)

    def kinds(self) -> Numbers:
        return self._numbers("kind", np.int32)

    def verdicts(self) -> Iterator[tuple[tuple[float, ...], dict[str, tuple[float, ...]], int]]:
        """Labels and scores, with how many records in a row of thousands have just these, in the order of the first."""
        for batch in self._batches:
            for entry in batch.column(_SAID).value_counts():
                yield *_parsed(entry["values"].as_py()), entry["counts"].as_py()

    def score_names(self) -> set[str]:
        """The scores that any record has."""
        return {name for _, scores, _ in self.verdicts() for name in scores}

    def column(self, name: str) -> pa.ChunkedArray:
        """One text of every record, as it lies in the table."""
        return pa.chunked_array([batch.column(name) for batch in self._batches], pa.string())

    def _numbers(self, name: str, kind: Any) -> Numbers:
        parts = [batch.column(name).to_numpy() for batch in self._batches]
        return np.concatenate([np.empty(0, kind), *parts])

    def _pieces(self, indices: Numbers) -> Iterator[tuple[pa.RecordBatch, Numbers]]:
        """The batches that hold these records, in turn, with the records' rows in each."""
        for number, rows in stretches(indices, self._ends):
            yield self._batches[number], rows


class RecordWriter:
    """Writes a table, a record after another."""

    def __init__(self, sink: IO[bytes] | pa.NativeFile):
        self._stream = pa.ipc.new_stream(sink, _SCHEMA)
        self._rows: list[tuple[str, str, str, int, str, int]] = []
        self._num_bytes = 0

    def add(self, record: GroupRecord) -> None:
        said = _TO_JSON([record.labels, dict(record.scores)])
        self._rows.append((record.id, record.prompt, record.degraded, record.seed, said, kind_of(record)))
        self._num_bytes += len(record.id) + len(record.prompt) + len(record.degraded) + len(said)
        if len(self._rows) >= _BATCH or self._num_bytes >= _BATCH_BYTES:
            self._write()

    def finish(self, notes: Mapping[str, str]) -> None:
        """Write what is left, and notes that `read_table` gives."""
        self._write()
        empty = pa.RecordBatch.from_pylist([], _SCHEMA)
        self._stream.write_batch(empty, custom_metadata=dict(notes))
        self._stream.close()

    def _write(self) -> None:
        columns: list[Any] = [*zip(*self._rows, strict=True)] if self._rows else [()] * 6
        for texts in columns[: len(_TEXTS)]:
            keys = b"".join([_key_bytes(text) for text in texts])
            columns.append(np.frombuffer(keys, ">u8").astype(np.uint64))
        arrays = [pa.array(column, kind) for column, kind in zip(columns, _SCHEMA.types, strict=True)]
        self._stream.write_batch(pa.RecordBatch.from_arrays(arrays, schema=_SCHEMA))
        self._rows.clear()
        self._num_bytes = 0


def read_table(data: pa.Buffer) -> tuple[RecordTable, dict[str, str]]:
    """A table and its notes, of bytes that are not copied. Raises `pa.ArrowException` for other bytes."""
    stream = pa.ipc.open_stream(data)
    if stream.schema != _SCHEMA:
        raise pa.ArrowInvalid("holds other columns")
    batches: list[pa.RecordBatch] = []
    notes: dict[str, str] = {}
    while True:
        try:
            batch, of_batch = stream.read_next_batch_with_custom_metadata()
        except StopIteration:
            break
        batches.append(batch)
        if of_batch is not None:
            notes = {key.decode(): value.decode() for key, value in of_batch.items()}
    return RecordTable(batches), notes


def piece_of(index: int, ends: Numbers) -> tuple[int, int]:
    """The piece in which an index lies, and its row there; pieces end before the indices `ends`."""
    piece = int(np.searchsorted(ends, index, side="right"))
    return piece, index - _before(piece, ends)


def stretches(indices: Numbers, ends: Numbers) -> Iterator[tuple[int, Numbers]]:
    """The pieces in which these indices lie, in turn, with the rows in each, as `piece_of` tells them of one."""
    pieces = np.searchsorted(ends, indices, side="right")
    (starts,) = np.nonzero(np.diff(pieces, prepend=-1))
    for rows in np.split(np.arange(len(indices)), starts)[1:]:
        piece = int(pieces[rows[0]])
        yield piece, indices[rows] - _before(piece, ends)


def _before(piece: int, ends: Numbers) -> int:
    """How many indices lie before a piece."""
    return int(ends[piece - 1]) if piece else 0


def kind_of(record: GroupRecord) -> int:
    """The number of samples of a record, and -1 for a lone dislike: which samples it has goes by that alone."""
    return -1 if record.num_samples == 1 and not record.liked else record.num_samples


def key_of(text: str) -> int:
    """A text's key: the first 64 bits of its sha256, as of `prompt_id`."""
    return int.from_bytes(_key_bytes(text), "big")


def _key_bytes(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()[:8]


def first_of_each(keys: Numbers) -> Numbers:
    """The indices, rising, of keys that have not stood before; memory is a few numbers for each index."""
    return np.sort(np.unique(keys, return_index=True)[1])


def repeated(*keys: Numbers) -> Numbers:
    """The indices, rising, whose keys stand at another index too."""
    order = np.lexsort(keys)
    if not len(order):
        return order
    is_as_before = np.ones(len(order) - 1, dtype=bool)
    for column in keys:
        is_as_before &= column[order[1:]] == column[order[:-1]]
    either = np.concatenate([is_as_before, [False]]) | np.concatenate([[False], is_as_before])
    return np.sort(order[either])


def _records(batch: pa.RecordBatch) -> list[GroupRecord]:
    columns = [batch.column(name).to_pylist() for name in (*_TEXTS, "seed", _SAID)]
    records: list[GroupRecord] = []
    for id, prompt, degraded, seed, said in zip(*columns, strict=True):
        labels, scores = _parsed(said)
        records.append(GroupRecord(id, prompt, degraded, seed, labels, scores))
    return records


@lru_cache(maxsize=1024)
def _parsed(said: str) -> tuple[tuple[float, ...], dict[str, tuple[float, ...]]]:
    """Labels and scores; most groups say the same."""
    labels, scores = json.loads(said)
    return tuple(labels), {name: tuple(numbers) for name, numbers in scores.items()}
