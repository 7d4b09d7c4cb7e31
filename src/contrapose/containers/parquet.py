"""Parquet tables: texts and numbers are read with their row, image files by their place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from contrapose.containers.places import Place
from contrapose.containers.row import ContainerRow
from contrapose.containers.stored import InParquet
from contrapose.containers.tables import check_columns
from contrapose.errors import UserError

_BROKEN = (OSError, ValueError, pa.ArrowException, MemoryError)  # what Arrow says of a file that it cannot read
_OF_BYTES = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_null)
_ROWS = 1024  # whose texts are in memory at once


def parquet_rows(path: Place, needs: Sequence[str] = ()) -> Iterator[ContainerRow]:
    """Every row; image files, as bytes or as Hugging Face's {bytes, path}, are places.

    Raises `UserError` for a file that is broken, and when a column of `needs` is missing.
    """
    with _in_one_line(path), path.open("rb") as file:
        table = pq.ParquetFile(file)
        schema = table.schema_arrow
        check_columns(path, schema.names, needs)
        images = [name for name in schema.names if _holds_files(schema.field(name).type)]
        plain = [name for name in schema.names if not _nests_files(schema.field(name).type)]
        kinds = {name: str(schema.field(name).type) for name in schema.names if name not in images}
        number = 0
        for group in range(table.num_row_groups):
            for at, values in enumerate(_values(table, group, plain)):
                number += 1
                fields = values | {name: InParquet(path, name, group, at) for name in images}
                yield ContainerRow(path, f"row {number}", fields, alone=False, kinds=kinds)


def _values(table: pq.ParquetFile, group: int, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """A row group's rows without their images, `_ROWS` at a time, since a whole file may be one group."""
    if not columns:
        yield from ({} for _ in range(table.metadata.row_group(group).num_rows))
        return
    for batch in table.iter_batches(_ROWS, [group], columns):
        cells = []
        for column in batch.columns:
            # A date or time becomes a text, which JSON can hold.
            cells.append(column.cast(pa.string()) if pa.types.is_temporal(column.type) else column)
        yield from pa.RecordBatch.from_arrays(cells, names=batch.schema.names).to_pylist()


def _holds_files(kind: pa.DataType) -> bool:
    """Whether a column's cells are files: bytes, or {bytes, path}."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    return any(is_kind(kind) for is_kind in _OF_BYTES)


def _nests_files(kind: pa.DataType) -> bool:
    """Whether a column has files at any depth, which are too much to read with their row."""
    children = [kind.field(number).type for number in range(kind.num_fields)]
    return _holds_files(kind) or any(_nests_files(child) for child in children)


@contextmanager
def _in_one_line(path: Place) -> Iterator[None]:
    """Whatever Arrow says of a broken file becomes one line with its name."""
    try:
        yield
    except FileNotFoundError:
        raise
    except _BROKEN as error:
        reason = " ".join(str(error).split()).removesuffix(".")
        raise UserError(f"{path}: is cut short or not a Parquet file ({reason}); fetch or write it again") from None
