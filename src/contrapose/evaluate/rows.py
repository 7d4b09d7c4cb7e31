"""The evidence, one row per image and metric; every score, interval and test is computed from these rows.

Many rows are kept in columns (`Rows`), grouped once, so that a hundred thousand judged images take some tens of MB.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from contrapose import files
from contrapose.errors import UserError
from contrapose.store import prompts

Key = tuple[str, int]
"""(prompt_id, seed), which is one image of every model."""

_SCHEMA = pa.schema(
    [
        pa.field("model", pa.string(), nullable=False),
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("tag", pa.string(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("metric", pa.string(), nullable=False),
        pa.field("value", pa.float64(), nullable=False),
        pa.field("reason", pa.string()),
        pa.field("seen", pa.string()),
    ]
)
_AT_ONCE = 1024  # rows that are Python objects at one time, with what was seen
_READ = [name for name in _SCHEMA.names if name != "seen"]  # which is much, and of which no number is made


class EvidenceRow(NamedTuple):
    """One image's value of one metric."""

    model: str
    prompt_id: str
    tag: str
    seed: int
    metric: str
    value: float
    reason: str | None = None
    seen: str | None = None
    """What the judge saw, as a JSON object; `read_rows` leaves it out."""


class JudgedGroup(NamedTuple):
    """One model's rows of one metric, entry i of every array being one row, in their order."""

    model: str
    metric: str
    prompt_ids: NDArray[np.object_]
    tags: NDArray[np.object_]
    seeds: NDArray[np.int64]
    values: NDArray[np.float64]
    by_key: NDArray[np.intp]
    """The places of the rows in the order of (prompt_id, seed)."""


class Rows(Sequence[EvidenceRow]):
    """Rows in columns, read like a list of `EvidenceRow`s."""

    def __init__(self, table: pa.Table):
        self.table = table
        """With the columns of a file of rows."""

    @classmethod
    def of(cls, rows: Iterable[EvidenceRow]) -> Rows:
        """Any rows in columns; they are taken a few at a time. Raises `pyarrow.ArrowException` for what is no row."""
        if isinstance(rows, Rows):
            return rows
        batches: list[pa.RecordBatch] = []
        remaining = iter(rows)
        while chunk := list(islice(remaining, _AT_ONCE)):
            columns = zip(*chunk, strict=True)
            arrays = [pa.array(column, field.type) for column, field in zip(columns, _SCHEMA, strict=True)]
            batches.append(pa.RecordBatch.from_arrays(arrays, schema=_SCHEMA))
        return cls(pa.Table.from_batches(batches, schema=_SCHEMA))

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @overload
    def __getitem__(self, place: int) -> EvidenceRow: ...
    @overload
    def __getitem__(self, place: slice) -> Rows: ...
    def __getitem__(self, place: int | slice) -> EvidenceRow | Rows:
        if isinstance(place, slice):
            return Rows(self.table.take(list(range(len(self))[place])))
        (row,) = self._as_python(self.table.slice(range(len(self))[place], 1))
        return row

    def __iter__(self) -> Iterator[EvidenceRow]:
        for first in range(0, len(self), _AT_ONCE):
            yield from self._as_python(self.table.slice(first, _AT_ONCE))

    def __add__(self, other: Rows) -> Rows:
        return Rows(pa.concat_tables([self.table, other.table]))

    @staticmethod
    def _as_python(table: pa.Table) -> Iterator[EvidenceRow]:
        for values in zip(*(column.to_pylist() for column in table.columns), strict=True):
            yield EvidenceRow(*values)

    @property
    def models(self) -> list[str]:
        """In the order of their first row."""
        return self._columns["model"].names

    @property
    def metrics(self) -> list[str]:
        """In the order of their first row."""
        return self._columns["metric"].names

    @cached_property
    def _columns(self) -> dict[str, _Texts]:
        columns: dict[str, _Texts] = {}
        for name in ("model", "metric", "prompt_id", "tag"):
            encoded = self.table[name].combine_chunks().dictionary_encode()
            columns[name] = _Texts(encoded.dictionary.to_pylist(), encoded.indices.to_numpy())
        return columns

    @cached_property
    def _prompt_ranks(self) -> NDArray[np.intp]:
        """Of each different prompt, its place when they are sorted."""
        names = self._columns["prompt_id"].names
        ranks = np.empty(len(names), np.intp)
        ranks[sorted(range(len(names)), key=names.__getitem__)] = np.arange(len(names))
        return ranks

    @cached_property
    def _places(self) -> dict[tuple[str, str], NDArray[np.intp]]:
        """Where the rows of each model and metric are, all of them worked out in one pass."""
        models = self._columns["model"]
        metrics = self._columns["metric"]
        kinds = models.codes.astype(np.int64) * len(metrics.names) + metrics.codes
        order = np.argsort(kinds, kind="stable")  # so that rows of one kind keep their order
        numbers, firsts = np.unique(kinds[order], return_index=True)
        places: dict[tuple[str, str], NDArray[np.intp]] = {}
        for number, of_kind in zip(numbers, np.split(order, firsts[1:]), strict=True):
            model, metric = divmod(int(number), len(metrics.names))
            places[models.names[model], metrics.names[metric]] = of_kind
        return places

    def metrics_of(self, model: str) -> list[str]:
        """What a model was judged by, in the order of its first rows."""
        first = {metric: places[0] for (name, metric), places in self._places.items() if name == model}
        return sorted(first, key=first.__getitem__)

    def tags_of(self, model: str) -> dict[str, str]:
        """The tag of each prompt that a model was judged on, in the order of their first rows."""
        places = self._of_model(model)
        prompts = self._columns["prompt_id"].at(places)
        return dict(zip(prompts, self._columns["tag"].at(places), strict=True))

    def num_images(self, model: str, metric: str | None = None) -> int:
        """How many different images of a model were judged by a metric, or by any."""
        places = self._of_model(model) if metric is None else self._of_kind(model, metric)
        return len(places) - len(self._repeated(places[self._by_key(places)]))

    def _of_model(self, model: str) -> NDArray[np.intp]:
        return np.sort(np.concatenate([places for (name, _), places in self._places.items() if name == model]))

    def _of_kind(self, model: str, metric: str) -> NDArray[np.intp]:
        return self._places.get((model, metric), np.empty(0, np.intp))

    def values_of(self, metric: str) -> NDArray[np.float64]:
        """All models' values."""
        groups = [places for (_, name), places in self._places.items() if name == metric]
        return self._numbers("value")[np.concatenate(groups)] if groups else np.empty(0)

    def _numbers(self, name: str) -> NDArray[Any]:
        values: NDArray[Any] = self.table[name].to_numpy()
        return values

    def group(self, model: str, metric: str) -> JudgedGroup:
        """One model's rows of one metric, none where there are none.

        Raises `UserError` for an image that was judged twice, and for a value that is not a finite number.
        """
        places = self._of_kind(model, metric)
        group = JudgedGroup(
            model,
            metric,
            self._columns["prompt_id"].at(places),
            self._columns["tag"].at(places),
            self._numbers("seed")[places],
            self._numbers("value")[places],
            self._by_key(places),
        )
        for place in np.flatnonzero(~np.isfinite(group.values))[:1]:
            where = f"{model}, {metric}, prompt {group.prompt_ids[place]}, seed {group.seeds[place]}"
            raise UserError(f"{where}: the value {group.values[place]} is not a finite number; look at that image")
        for place in self._repeated(places[group.by_key])[:1]:
            row = self[int(place)]
            where = f"{model}, {metric}, prompt {row.prompt_id}, seed {row.seed}"
            raise UserError(f"{where}: judged twice; evaluate this model once")
        return group

    def _by_key(self, places: NDArray[np.intp]) -> NDArray[np.intp]:
        """How to order these rows by (prompt_id, seed)."""
        ranks = self._prompt_ranks[self._columns["prompt_id"].codes[places]]
        return np.lexsort((self._numbers("seed")[places], ranks))

    def _repeated(self, places: NDArray[np.intp]) -> NDArray[np.intp]:
        """Of rows in the order of (prompt_id, seed), those whose image is that of the row before."""
        prompts = self._columns["prompt_id"].codes[places]
        seeds = self._numbers("seed")[places]
        return places[1:][(prompts[1:] == prompts[:-1]) & (seeds[1:] == seeds[:-1])]

    def rows_of(self, model: str, metric: str) -> Iterator[EvidenceRow]:
        """One model's rows of one metric."""
        return iter(Rows(self.table.take(self._of_kind(model, metric))))


class _Texts(NamedTuple):
    """A column of texts: each different one, in the order of its first row, and of each row the number of its text."""

    names: list[str]
    codes: NDArray[np.int32]

    def at(self, places: NDArray[np.intp]) -> NDArray[np.object_]:
        return np.array(self.names, dtype=object)[self.codes[places]]


@dataclass(frozen=True)
class Paired:
    """Two models' values on the same images-to-be: entry i of every array is one (prompt_id, seed), in their order."""

    prompt_ids: tuple[str, ...]
    tags: tuple[str, ...]
    seeds: tuple[int, ...]
    a: NDArray[np.float64]
    b: NDArray[np.float64]


def prompt_id(folder: str, prompt: str) -> str:
    """The folder's name and 8 hex digits of its prompt's hash: line 7 of another prompt file is another prompt."""
    return f"{folder}-{prompts.prompt_id(prompt)[:8]}"


def text_of(identity: str) -> str:
    """Of a `prompt_id` what stands for the prompt's text, the same in every folder."""
    return identity.rpartition("-")[2]


def joined(rows: Iterable[Rows]) -> Rows:
    """The rows of one after the other."""
    tables = [_SCHEMA.empty_table(), *(each.table for each in rows)]
    return Rows(pa.concat_tables(tables))


def write_rows(rows: Iterable[EvidenceRow], path: Path) -> None:
    """Write rows as a parquet file, whole or not at all."""
    table = Rows.of(rows).table
    with files.replacing(path) as aside:
        pq.write_table(table, aside)


def read_rows(path: Path, seen: bool = False) -> Rows:
    """Rows from a parquet file, with what was `seen` or without; `UserError` when it is missing, broken or of another
    make."""
    wanted = _SCHEMA.names if seen else _READ
    try:
        with pq.ParquetFile(path) as file:
            missing = [name for name in wanted if name not in file.schema_arrow.names]
            table = None if missing else file.read(columns=wanted)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file of rows; evaluate first") from None
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(path, f"not a readable parquet file ({str(error).splitlines()[0]})") from None
    if table is None:
        raise _unreadable(path, f"has no column {', '.join(missing)}")
    try:
        if not seen:
            table = table.append_column(_SCHEMA.field("seen"), pa.nulls(len(table), pa.string()))
        table = table.select(_SCHEMA.names).cast(_SCHEMA)
    except (ValueError, pa.ArrowException) as error:
        raise _unreadable(path, f"columns are not rows' ({str(error).splitlines()[0]})") from None
    if not np.isfinite(table["value"].to_numpy()).all():
        raise _unreadable(path, "holds a value that is not a finite number")
    return Rows(table)


def read_seen(path: Path) -> Iterator[EvidenceRow]:
    """The rows whose judge said what it saw, in their order, with that; few are in memory at a time."""
    with pq.ParquetFile(path) as file:
        if "seen" not in file.schema_arrow.names:  # written before judges said so
            return
        for batch in file.iter_batches(_AT_ONCE, columns=_SCHEMA.names):
            for values in batch.to_pylist():
                if values["seen"] is not None:
                    yield EvidenceRow(**values)


def _unreadable(path: Path, reason: str) -> UserError:
    return UserError(f"{path}: {reason}; delete it and run the command that made it again")


def select(rows: Iterable[EvidenceRow], model: str, metric: str) -> dict[Key, EvidenceRow]:
    """One model's rows of one metric by (prompt_id, seed).

    Raises `UserError` for an image that was judged twice, and for a value that is not a finite number.
    """
    columns = Rows.of(rows)
    columns.group(model, metric)
    return {(row.prompt_id, row.seed): row for row in columns.rows_of(model, metric)}


def paired(rows: Iterable[EvidenceRow], a: str, b: str, metric: str) -> Paired:
    """Two models' values of a metric side by side.

    Raises `UserError` when they were not judged on the same (prompt_id, seed) set, naming an example.
    """
    columns = Rows.of(rows)
    of_a = columns.group(a, metric)
    of_b = columns.group(b, metric)
    prompt_ids = of_a.prompt_ids[of_a.by_key]
    seeds = of_a.seeds[of_a.by_key]
    same_prompts = np.array_equal(prompt_ids, of_b.prompt_ids[of_b.by_key])
    if not (same_prompts and np.array_equal(seeds, of_b.seeds[of_b.by_key])):
        _check_same_images(metric, of_a, of_b)
        _check_same_images(metric, of_b, of_a)
    if not len(prompt_ids):
        raise UserError(f"{a} and {b} cannot be compared on {metric}: neither has rows of it")
    tags = of_a.tags[of_a.by_key]
    tags_of_b = of_b.tags[of_b.by_key]
    for place in np.flatnonzero(tags != tags_of_b)[:1]:
        either = f"{tags[place]} in one and {tags_of_b[place]} in the other"
        raise UserError(f"{a} and {b}: prompt {prompt_ids[place]} is tagged {either}")
    values = (of_a.values[of_a.by_key], of_b.values[of_b.by_key])
    return Paired(tuple(prompt_ids), tuple(tags), tuple(seeds.tolist()), *values)


def _check_same_images(metric: str, model: JudgedGroup, other: JudgedGroup) -> None:
    """Raise `UserError` where a model was judged on images that the other one was not judged on."""
    images = set(zip(model.prompt_ids, model.seeds.tolist(), strict=True))
    missing = sorted(images.difference(zip(other.prompt_ids, other.seeds.tolist(), strict=True)))
    if missing:
        name, seed = missing[0]
        raise UserError(
            f"{model.model} and {other.model} cannot be compared on {metric}: prompt {name}, seed {seed} is missing "
            f"from {other.model} ({len(missing)} missing in all); sample both with the same prompts and seeds"
        )
