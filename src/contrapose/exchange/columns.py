"""What an exported Parquet file looks like: Pick-a-Pic's columns for pairs, TRL's for likes and dislikes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from contrapose.errors import UserError
from contrapose.exchange.listings.kto import IMAGE, LABEL, PROMPT
from contrapose.exchange.listings.listed import MASK
from contrapose.exchange.listings.pick_a_pic import CAPTION, DEGRADED, IMAGE_0, IMAGE_1, LABEL_0, LABEL_1
from contrapose.seeds import seed_of
from contrapose.store.groups import GroupStore
from contrapose.store.records import GroupRecord, Sample


@dataclass(frozen=True)
class RowForm:
    """The columns of a file, and how a group becomes a row of them."""

    schema: pa.Schema
    samples: tuple[Sample, ...]
    """Those of a group whose images it has."""
    row: Callable[[GroupRecord, Sequence[bytes]], dict[str, Any]]
    """A group's row, of its record and the files of these images."""


def row_form(store: GroupStore) -> RowForm:
    """The form of what a store holds.

    Raises `UserError` for groups of more than two, for pairs beside single samples, and for a single one that is
    neither liked nor disliked but a share of both.
    """
    kinds = {record.num_samples for record in store.records}
    if kinds == {2}:
        return RowForm(_pair_schema(store), ("winner", "loser"), _pair)
    if kinds != {1}:
        raise UserError(
            f"{store.folder}: holds other groups than pairs alone, or likes and dislikes alone, which these formats "
            "have no place for"
        )
    for record in store.records:
        if record.labels[0] not in (0, 1):
            raise UserError(
                f"{store.folder}: record {record.id}: its label is {record.labels[0]:g}, and this format has 1 for a "
                "like and 0 for a dislike alone"
            )
    return RowForm(_single_schema(), (0,), _single)


# A pair


def _pair_schema(store: GroupStore) -> pa.Schema:
    fields: list[tuple[str, pa.DataType]] = [
        ("uid", pa.string()), (IMAGE_0, pa.binary()), (IMAGE_1, pa.binary()), (LABEL_0, pa.float64()),
        (LABEL_1, pa.float64()), (CAPTION, pa.string()),
    ]  # fmt: skip
    if any(record.degraded for record in store.records):
        fields.append((DEGRADED, pa.string()))
    if store.has_masks:
        fields.append((MASK, pa.binary()))
    return pa.schema(fields)


def _pair(record: GroupRecord, images: Sequence[bytes]) -> dict[str, Any]:
    winner, loser = images
    sides = [(winner, record.preference), (loser, 1 - record.preference)]
    if winner_side(record) == 1:
        sides.reverse()
    (image_0, label_0), (image_1, label_1) = sides
    return {
        "uid": record.id, IMAGE_0: image_0, IMAGE_1: image_1, LABEL_0: label_0, LABEL_1: label_1,
        CAPTION: record.prompt, DEGRADED: record.degraded,
    }  # fmt: skip


def winner_side(record: GroupRecord) -> int:
    """Whether the winner becomes image 0 or image 1, by the pair's identifier and seed."""
    return seed_of(record.id, record.seed, "side") % 2


# A like or a dislike


def _single_schema() -> pa.Schema:
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([(PROMPT, pa.string()), (IMAGE, image), (LABEL, pa.bool_())])
    # by which Hugging Face's `datasets` knows that the column holds images
    features = {
        PROMPT: {"_type": "Value", "dtype": "string"},
        IMAGE: {"_type": "Image"},
        LABEL: {"_type": "Value", "dtype": "bool"},
    }
    return schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def _single(record: GroupRecord, images: Sequence[bytes]) -> dict[str, Any]:
    return {PROMPT: record.prompt, IMAGE: {"bytes": images[0], "path": None}, LABEL: record.liked}
