"""Pick-a-Pic's Parquet: `jpg_0` and `jpg_1` (image files as bytes), `label_0` (1, 0, 0.5 for a tie) and `caption`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from contrapose.containers.left_out import LeftOut, Skip, attempt
from contrapose.containers.stored import InParquet
from contrapose.errors import UserError
from contrapose.exchange.listings.listed import Listed, Reading, caption, first_share, judged
from contrapose.store.prompts import is_writable

IMAGE_0, IMAGE_1, LABEL_0, LABEL_1, CAPTION = "jpg_0", "jpg_1", "label_0", "label_1", "caption"
DEGRADED = "degraded_prompt"  # ours, as 'contrapose pairs export' writes it
BROKEN = (OSError, ValueError, pa.ArrowException, MemoryError)  # what Arrow says of a file that it cannot read
_OF_BYTES = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_null)
_ROWS = 1024  # whose captions and labels are in memory at once
_HAS_LABEL = "has_label"  # False where nobody was asked
_SPLIT = re.compile(r"(.+)-\d{5}-of-\d{5}.*\.parquet")  # as Hugging Face names a data set's files


def pairs(source: Path, reading: Reading) -> Iterator[Listed | LeftOut]:
    """The rows of one file, or of all in a folder or its `data/`; captions and labels are read, no image.

    Raises `UserError` for a file that is broken or has other columns, for a label that is no number, and for a folder
    of several splits of which none is named.
    """
    for path in files(source, reading.split):
        yield from _of_file(path, reading)


def files(source: Path, split: str | None = None) -> list[Path]:
    """The Parquet files that a path stands for, of one split where there are several."""
    if not source.is_dir():
        found = [source]
    else:
        found = sorted(source.glob("*.parquet")) or sorted((source / "data").glob("*.parquet"))
    splits = {path: match[1] if (match := _SPLIT.fullmatch(path.name)) else None for path in found}
    names = sorted({name for name in splits.values() if name})
    if split is not None and split not in names:
        mend = "" if names else "; where each split is a folder, name that folder"
        raise UserError(f"{source}: has no split {split} (found: {', '.join(names) or 'no splits'}){mend}")
    if split is None and len(set(splits.values())) > 1:
        raise UserError(f"{source}: has the splits {', '.join(names)}; choose one with --split")
    return found if split is None else [path for path in found if splits[path] == split]


def _of_file(path: Path, reading: Reading) -> Iterator[Listed | LeftOut]:
    try:
        table = pq.ParquetFile(path)
        columns = _columns(path, table)
        number = 0
        for group in range(table.num_row_groups):
            for row, fields in enumerate(_fields(table, group, columns)):
                number += 1
                name = f"{path.name} row {number}"
                yield attempt(name, _pair, path, name, (group, row), fields, reading)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; check the path") from None
    except BROKEN as error:
        reason = " ".join(str(error).split()).removesuffix(".")
        raise UserError(f"{path}: is cut short or no Parquet file ({reason}); fetch or write it again") from None


def _fields(table: pq.ParquetFile, group: int, columns: list[str]) -> Iterator[dict[str, Any]]:
    """A row group's rows without their images, some at a time, since a whole file may be one group."""
    for batch in table.iter_batches(_ROWS, [group], columns):
        yield from batch.to_pylist()


def _columns(path: Path, table: pq.ParquetFile) -> list[str]:
    """The columns to list by: all but the images."""
    there = table.schema_arrow.names
    missing = [name for name in (IMAGE_0, IMAGE_1, LABEL_0, CAPTION) if name not in there]
    if missing:
        raise UserError(f"{path}: has no column {', '.join(missing)} (columns found: {', '.join(there)}); add it")
    for name in (IMAGE_0, IMAGE_1):
        check_images(path, table.schema_arrow, name)
    return [LABEL_0, CAPTION, *(name for name in (_HAS_LABEL, DEGRADED) if name in there)]


def check_images(path: Path, schema: pa.Schema, column: str) -> None:
    """Raise `UserError` for a column that can hold no image files, such as one of addresses."""
    kind = schema.field(column).type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    if not any(is_kind(kind) for is_kind in _OF_BYTES):
        raise UserError(f"{path}: its column {column} is of {kind}; write image files as bytes or {{bytes, path}}")


def _pair(path: Path, name: str, at: tuple[int, int], fields: dict[str, Any], reading: Reading) -> Listed:
    label = fields[LABEL_0]
    if label is None or fields.get(_HAS_LABEL) is False:
        raise Skip("has no label")
    where = f"{path}: {name.removeprefix(path.name).strip()}"
    shares = first_share(label, LABEL_0, where)
    images = InParquet(path, IMAGE_0, *at), InParquet(path, IMAGE_1, *at)
    return judged(name, caption(fields[CAPTION]), images, shares, reading.ties, _degraded(fields, where))


def _degraded(fields: dict[str, Any], where: str) -> str:
    degraded = fields.get(DEGRADED)
    if degraded is None or degraded == "":
        return ""
    if not isinstance(degraded, str):
        raise UserError(f"{where}: `{DEGRADED}` is {degraded!r}; write a text")
    if not is_writable(degraded):
        raise Skip("its degraded prompt holds a NUL or half a character")
    return degraded
