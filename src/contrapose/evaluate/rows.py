"""The evidence, one row per image and metric; every score, interval and test is computed from these rows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

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
_AT_ONCE = 1024  # rows that are read together, with what was seen
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


@dataclass(frozen=True)
class Paired:
    """Two models' values on the same images-to-be: entry i of every array is one (prompt_id, seed)."""

    prompt_ids: tuple[str, ...]
    tags: tuple[str, ...]
    seeds: tuple[int, ...]
    a: NDArray[np.float64]
    b: NDArray[np.float64]


def prompt_id(folder: str, prompt: str) -> str:
    """The folder's name and 8 hex digits of its prompt's hash: line 7 of another prompt file is another prompt."""
    return f"{folder}-{prompts.prompt_id(prompt)[:8]}"


def write_rows(rows: Iterable[EvidenceRow], path: Path) -> None:
    """Write rows as a parquet file, whole or not at all."""
    table = pa.Table.from_pylist([row._asdict() for row in rows], schema=_SCHEMA)
    with files.replacing(path) as aside:
        pq.write_table(table, aside)


def read_rows(path: Path) -> list[EvidenceRow]:
    """Rows from a parquet file; `UserError` when it is missing, broken or of another make."""
    try:
        table = pq.read_table(path, partitioning=None)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file of rows; evaluate first") from None
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(path, f"not a readable parquet file ({str(error).splitlines()[0]})") from None
    missing = [name for name in _READ if name not in table.column_names]
    if missing:
        raise _unreadable(path, f"has no column {', '.join(missing)}")
    try:
        columns = table.select(_READ).cast(_SCHEMA.remove(_SCHEMA.get_field_index("seen"))).to_pydict()
    except (ValueError, pa.ArrowException) as error:
        raise _unreadable(path, f"columns are not rows' ({str(error).splitlines()[0]})") from None
    if not all(map(math.isfinite, columns["value"])):
        raise _unreadable(path, "holds a value that is not a finite number")
    return [EvidenceRow(*values) for values in zip(*columns.values(), strict=True)]


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
    chosen: dict[Key, EvidenceRow] = {}
    for row in rows:
        if row.model != model or row.metric != metric:
            continue
        where = f"{model}, {metric}, prompt {row.prompt_id}, seed {row.seed}"
        if (row.prompt_id, row.seed) in chosen:
            raise UserError(f"{where}: judged twice; evaluate this model once")
        if not math.isfinite(row.value):
            raise UserError(f"{where}: the value {row.value} is not a finite number; look at that image")
        chosen[row.prompt_id, row.seed] = row
    return chosen


def paired(rows: Sequence[EvidenceRow], a: str, b: str, metric: str) -> Paired:
    """Two models' values of a metric side by side.

    Raises `UserError` when they were not judged on the same (prompt_id, seed) set, naming an example.
    """
    of_a = select(rows, a, metric)
    of_b = select(rows, b, metric)
    _check_same_images(metric, (a, of_a), (b, of_b))
    _check_same_images(metric, (b, of_b), (a, of_a))
    if not of_a:
        raise UserError(f"{a} and {b} cannot be compared on {metric}: neither has rows of it")
    keys = sorted(of_a)
    for key in keys:
        if of_a[key].tag != of_b[key].tag:
            raise UserError(
                f"{a} and {b}: prompt {key[0]} is tagged {of_a[key].tag} in one and {of_b[key].tag} in the other"
            )
    rows_a = [of_a[key] for key in keys]
    values_a = [row.value for row in rows_a]
    values_b = [of_b[key].value for key in keys]
    prompt_ids, tags, seeds = zip(*((row.prompt_id, row.tag, row.seed) for row in rows_a), strict=True)
    return Paired(prompt_ids, tags, seeds, np.array(values_a), np.array(values_b))


def _check_same_images(
    metric: str, model: tuple[str, Mapping[Key, EvidenceRow]], other: tuple[str, Mapping[Key, EvidenceRow]]
) -> None:
    """Raise `UserError` where a model was judged on images that the other one was not judged on."""
    missing = sorted(model[1].keys() - other[1].keys())
    if missing:
        name, seed = missing[0]
        raise UserError(
            f"{model[0]} and {other[0]} cannot be compared on {metric}: prompt {name}, seed {seed} is missing from "
            f"{other[0]} ({len(missing)} missing in all); sample both with the same prompts and seeds"
        )
