"""Photographs in Parquet tables: Hugging Face's `image` column, or the better image of each of Pick-a-Pic's pairs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from contrapose.containers.left_out import LeftOut
from contrapose.containers.stored import InParquet
from contrapose.errors import UserError
from contrapose.exchange.listings import pick_a_pic
from contrapose.exchange.listings.listed import Reading
from contrapose.photographs.photos.photo import CAPTIONS, Photo, best_of, caption_in

IMAGE = "image"
_ROWS = 1024  # whose captions are in memory at once


def parquet_photos(path: Path, label: str) -> Iterator[Photo | LeftOut]:
    """The rows' images, by their places; images are not read.

    Raises `UserError` for a file that is broken or has no images, and for a Pick-a-Pic label that is no number.
    """
    try:
        table = pq.ParquetFile(path)
        if {pick_a_pic.IMAGE_0, pick_a_pic.IMAGE_1} <= set(table.schema_arrow.names):
            for pair in pick_a_pic.pairs(path, Reading(ties="half")):
                yield best_of(label + pair.name.removeprefix(path.name), pair)
        else:
            _check_images(path, table.schema_arrow)
            yield from _photos(path, label, table)
    except pick_a_pic.BROKEN as error:
        reason = " ".join(str(error).split()).removesuffix(".")
        raise UserError(f"{path}: is cut short or no Parquet file ({reason}); fetch or write it again") from None


def _photos(path: Path, label: str, table: pq.ParquetFile) -> Iterator[Photo]:
    columns = [name for name in CAPTIONS if name in table.schema_arrow.names]
    number = 0
    for group in range(table.num_row_groups):
        for row, caption in enumerate(_captions(table, group, columns)):
            number += 1
            yield Photo(f"{label} row {number}", InParquet(path, IMAGE, group, row), caption)


def _captions(table: pq.ParquetFile, group: int, columns: list[str]) -> Iterator[str | None]:
    if not columns:
        yield from (None for _ in range(table.metadata.row_group(group).num_rows))
        return
    for batch in table.iter_batches(_ROWS, [group], columns):
        yield from map(caption_in, batch.to_pylist())


def _check_images(path: Path, schema: pa.Schema) -> None:
    if IMAGE not in schema.names:
        raise UserError(
            f"{path}: has no column {IMAGE} (columns found: {', '.join(schema.names)}); photographs are read from "
            f"{IMAGE} and {' or '.join(CAPTIONS)}, or from Pick-a-Pic's columns"
        )
    pick_a_pic.check_images(path, schema, IMAGE)
