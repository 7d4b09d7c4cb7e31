"""Photographs in a webdataset tar: KEY.jpg with KEY.txt, .caption or .json, or a Pick-a-Pic pair's better image."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from contrapose.containers.images import IMAGES
from contrapose.containers.left_out import LeftOut, Skip, attempt
from contrapose.containers.stored import InTar
from contrapose.exchange.listings.listed import Reading, text
from contrapose.exchange.listings.webdataset import APART, Sample, pair, samples
from contrapose.photographs.photos.photo import Photo, best_of, caption_in, one_line
from contrapose.store.prompts import is_writable

_ENDINGS = tuple(ending.removeprefix(".") for ending in IMAGES)


def tar_photos(path: Path, label: str) -> Iterator[Photo | LeftOut]:
    """The samples' images by the places of their bytes; the keys of this one tar are in memory.

    Raises `UserError` for a tar that is compressed, cut short or broken, and for a Pick-a-Pic label that is no number.
    """
    for sample in samples(path):
        name = f"{label}:{sample.key}" + (f" ({sample.time})" if sample.time > 1 else "")
        if "jpg_0" in sample.fields:
            yield best_of(name, attempt(name, pair, name, f"{path}: {sample.key}", sample, Reading(ties="half")))
        else:
            yield (
                _photo(name, sample)
                if is_writable(name)
                else LeftOut(name, "unusable", "its name is not UTF-8; rename it")
            )


def _photo(name: str, sample: Sample) -> Photo | LeftOut:
    fields = {field.lower(): stored for field, stored in sample.fields.items()}
    image = next((fields[ending] for ending in _ENDINGS if ending in fields), None)
    if image is None:
        hint = APART if sample.time > 1 else "a name is KEY.ENDING, and its key ends at the first dot"
        return LeftOut(name, "unusable", f"holds no image that is read, but {', '.join(sorted(fields))}; {hint}")
    return Photo(name, image, _caption(fields))


def _caption(fields: Mapping[str, InTar]) -> str | None:
    """The first text there is, of a text file or of a JSON object."""
    for field in ("txt", "caption"):
        if field in fields and (said := one_line(_text(fields[field]))):
            return said
    try:
        row = json.loads(_text(fields["json"])) if "json" in fields else {}
    except (ValueError, RecursionError):
        return None
    return caption_in(row) if isinstance(row, dict) else None


def _text(stored: InTar) -> str:
    try:
        return text(stored)
    except Skip:
        return ""
