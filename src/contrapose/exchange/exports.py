"""Export a store to Parquet that other trainers read: Pick-a-Pic's of pairs, TRL's of likes and dislikes.

Latents are decoded a batch at a time and written a row group at a time. Which side a pair's winner is on depends on its
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
from contrapose.exchange.columns import RowForm, row_form
from contrapose.exchange.listings.listed import MASK
from contrapose.exchange.settings import CONVERTER, Export
from contrapose.files import check_file, one_writer, replacing
from contrapose.store.groups import GroupStore, stack

_MADE_OF = b"contrapose"  # in the schema's metadata
_GROUP = 100  # rows that a reader gets at a time, as in Hugging Face's image data sets
_SAVING: dict[str, dict[str, Any]] = {"png": {"format": "PNG"}, "jpeg": {"format": "JPEG", "quality": 95}}


def digest_of_export(settings: Export, store: GroupStore, model: str) -> str:
    """A digest of all that decides an export: the pairs, the model's files and the settings."""
    written = CONVERTER.unstructure(settings)
    chosen = {name: value for name, value in written.items() if name not in ("model", "batch_size")}
    parts = [store.digest, model_digest(model, settings.loading), sorted(chosen.items())]
    if store.has_masks:
        parts.append(MASK)  # which files of before did not hold
    return digest_of_parts(parts)


def is_exported(settings: Export, store: GroupStore, out: Path, overwrite: bool = False) -> bool:
    """Whether `out` is there already, whole and of exactly these pairs, settings and model.

    Raises `UserError` for a name that does not end in .parquet, a file that cannot be written, and one that is there
    and is another, unless it is to be overwritten.
    """
    if out.suffix != ".parquet":
        raise UserError(f"--out {out}: name a file that ends in .parquet")
    check_file(out)
    model = store.model_or(settings.model)
    if not out.exists() or overwrite:
        return False
    if _is_made_of(out, digest_of_export(settings, store, model)):
        return True
    raise UserError(
        f"--out {out}: is there already, of other pairs or settings; choose another name, or replace it with "
        "--overwrite"
    )


def _is_made_of(out: Path, digest: str) -> bool:
    try:
        return (pq.read_schema(out).metadata or {}).get(_MADE_OF) == digest.encode()
    except (OSError, ValueError, pa.ArrowException):
        return False


def export_pairs(settings: Export, store: GroupStore, backbone: Backbone, out: Path) -> Iterator[int]:
    """Write all groups to `out`, yielding the number done so far; the file is whole or absent.

    Pairs have the columns uid, jpg_0, jpg_1 (image files), label_0, label_1 (the winner's preference and what is left
    of 1), caption, and where any pair has one degraded_prompt and mask (an image of the latents' size); likes and
    dislikes have prompt, completion (the image) and label (whether it is liked). The schema's metadata tell
    `digest_of_export`. Raises `UserError` for pairs of another model, and for groups that neither form has a place for.
    """
    store.check_maker(str(backbone.source.model), backbone.fingerprint)
    form = row_form(store)
    made_of = {_MADE_OF: digest_of_export(settings, store, str(backbone.source.model))}
    schema = form.schema.with_metadata({**(form.schema.metadata or {}), **made_of})
    done = 0
    waiting: list[dict[str, Any]] = []
    # rows wait until a group is full, so that memory holds a group of images and a batch
    with one_writer(out, beside=True), replacing(out) as aside, pq.ParquetWriter(aside, schema) as writer:
        # Neighbours of one shape are decoded together.
        for _, same_shape in groupby(range(len(store)), key=store.shape):
            indices = list(same_shape)
            for first in range(0, len(indices), settings.batch_size):
                batch = indices[first : first + settings.batch_size]
                waiting += _rows(settings, form, store, backbone, batch)
                done += len(batch)
                while len(waiting) >= _GROUP or (waiting and done == len(store)):
                    writer.write_table(pa.Table.from_pylist(waiting[:_GROUP], schema))
                    del waiting[:_GROUP]
                yield done


def _rows(
    settings: Export, form: RowForm, store: GroupStore, backbone: Backbone, indices: Sequence[int]
) -> list[dict[str, Any]]:
    latents = torch.cat([stack(store, sample, indices) for sample in form.samples])
    pixels = (backbone.images.decode(latents).float().cpu() / 2 + 0.5).clamp(0, 1) * 255
    arrays = pixels.round().to(torch.uint8).permute(0, 2, 3, 1).numpy()

    def image_file(array: np.ndarray, saving: dict[str, Any] = _SAVING[settings.image_format]) -> bytes:
        file = io.BytesIO()
        Image.fromarray(array).save(file, **saving)
        return file.getvalue()

    images = list(several(image_file, arrays))
    rows: list[dict[str, Any]] = []
    for number, index in enumerate(indices):
        # the latents went through the decoder as all winners, then all losers
        row = form.row(store.records[index], images[number :: len(indices)])
        if store.has_mask(index):
            row[MASK] = image_file(store.mask_levels(index).numpy(), _SAVING["png"])
        rows.append(row)
    return rows
