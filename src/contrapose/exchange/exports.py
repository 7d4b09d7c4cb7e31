"""Export a store of pairs to Pick-a-Pic's Parquet, which other trainers read.

Latents are decoded a batch at a time and written a row group at a time. Which side the winner is on depends on its
record alone, so that no column order tells it.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from contrapose.backbones.base import Backbone
from contrapose.backbones.digests import model_digest
from contrapose.containers.images import several
from contrapose.contents import digest_of_parts
from contrapose.errors import UserError
from contrapose.exchange.listings.pick_a_pic import CAPTION, DEGRADED, IMAGE_0, IMAGE_1, LABEL_0, LABEL_1
from contrapose.exchange.settings import CONVERTER, Export
from contrapose.files import replacing
from contrapose.seeds import seed_of
from contrapose.store.groups import GroupStore, stack
from contrapose.store.records import GroupRecord

_MADE_OF = b"contrapose"  # in the schema's metadata
_GROUP = 100  # rows that a reader gets at a time, as in Hugging Face's image data sets
_SAVING: dict[str, dict[str, Any]] = {"png": {"format": "PNG"}, "jpeg": {"format": "JPEG", "quality": 95}}


def digest_of_export(settings: Export, store: GroupStore, model: str) -> str:
    """A digest of all that decides an export: the pairs, the model's files and the settings."""
    written = CONVERTER.unstructure(settings)
    chosen = {name: value for name, value in written.items() if name not in ("model", "batch_size")}
    return digest_of_parts([store.digest, model_digest(model, settings.loading), sorted(chosen.items())])


def is_exported(out: Path, digest: str) -> bool:
    """Whether a whole file is there that was made of exactly this."""
    try:
        return (pq.read_schema(out).metadata or {}).get(_MADE_OF) == digest.encode()
    except (OSError, ValueError, pa.ArrowException):
        return False


def export_pairs(settings: Export, store: GroupStore, backbone: Backbone, out: Path) -> Iterator[int]:
    """Write all pairs to `out`, yielding the number done so far; the file is whole or absent.

    Columns: uid, jpg_0, jpg_1 (image files), label_0, label_1 (the winner's preference and what is left of 1),
    caption, and degraded_prompt where any pair has one. The schema's metadata tell `digest_of_export`. Raises
    `UserError` for pairs of another model.
    """
    store.check_maker(str(backbone.source.model), backbone.fingerprint)
    schema = _schema(any(record.degraded for record in store.records))
    schema = schema.with_metadata({_MADE_OF: digest_of_export(settings, store, str(backbone.source.model))})
    if any(record.num_samples != 2 for record in store.records):
        raise UserError(f"{store.folder}: holds other groups than pairs, which this format has no place for")
    done = 0
    waiting: list[dict[str, Any]] = []
    # rows wait until a group is full, so that memory holds a group of images and a batch
    with replacing(out) as aside, pq.ParquetWriter(aside, schema) as writer:
        # Neighbours of one shape are decoded together.
        for _, same_shape in groupby(range(len(store)), key=store.shape):
            indices = list(same_shape)
            for first in range(0, len(indices), settings.batch_size):
                batch = indices[first : first + settings.batch_size]
                waiting += _rows(settings, store, backbone, batch)
                done += len(batch)
                while len(waiting) >= _GROUP or (waiting and done == len(store)):
                    writer.write_table(pa.Table.from_pylist(waiting[:_GROUP], schema))
                    del waiting[:_GROUP]
                yield done


def winner_side(record: GroupRecord) -> int:
    """Whether the winner becomes image 0 or image 1, by the pair's identifier and seed."""
    return seed_of(record.id, record.seed, "side") % 2


def _schema(degraded: bool) -> pa.Schema:
    fields: list[tuple[str, pa.DataType]] = [
        ("uid", pa.string()), (IMAGE_0, pa.binary()), (IMAGE_1, pa.binary()), (LABEL_0, pa.float64()),
        (LABEL_1, pa.float64()), (CAPTION, pa.string()),
    ]  # fmt: skip
    return pa.schema([*fields, *([(DEGRADED, pa.string())] if degraded else [])])


def _rows(settings: Export, store: GroupStore, backbone: Backbone, indices: Sequence[int]) -> list[dict[str, Any]]:
    latents = torch.cat([stack(store, field, indices) for field in ("winner", "loser")])
    pixels = (backbone.images.decode(latents).float().cpu() / 2 + 0.5).clamp(0, 1) * 255
    arrays = pixels.round().to(torch.uint8).permute(0, 2, 3, 1).numpy()

    def image_file(array: np.ndarray) -> bytes:
        file = io.BytesIO()
        Image.fromarray(array).save(file, **_SAVING[settings.image_format])
        return file.getvalue()

    images = list(several(image_file, arrays))
    records = [store.records[index] for index in indices]
    # The latents went through the decoder as all winners, then all losers.
    count = len(records)
    decoded = zip(records, images[:count], images[count:], strict=True)
    return [_row(record, winner, loser) for record, winner, loser in decoded]


def _row(record: GroupRecord, winner: bytes, loser: bytes) -> dict[str, Any]:
    sides = [(winner, record.preference), (loser, 1 - record.preference)]
    if winner_side(record) == 1:
        sides.reverse()
    (image_0, label_0), (image_1, label_1) = sides
    return {
        "uid": record.id, IMAGE_0: image_0, IMAGE_1: image_1, LABEL_0: label_0, LABEL_1: label_1,
        CAPTION: record.prompt, DEGRADED: record.degraded,
    }  # fmt: skip
