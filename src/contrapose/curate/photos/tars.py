"""Photographs in a webdataset tar: KEY.jpg with KEY.txt, .caption or .json, or a Pick-a-Pic pair's better image."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from contrapose.curate.images import IMAGES, Skip
from contrapose.curate.listings.listed import Reading, one
from contrapose.curate.listings.webdataset import pair, samples, text
from contrapose.curate.photos.photo import Photo, SkippedPhoto, best_of, caption_in, one_line
from contrapose.curate.stored import InTar

_ENDINGS = tuple(ending.removeprefix(".") for ending in IMAGES)


def tar_photos(path: Path, label: str) -> Iterator[Photo | SkippedPhoto]:
    """The samples' images by the places of their bytes; the keys of this one tar are in memory.

    Raises `UserError` for a tar that is compressed, cut short or broken, and for a Pick-a-Pic label that is no number.
    """
    times: Counter[str] = Counter()
    for key, fields in samples(path):
        times[key] += 1
        name = f"{label}:{key}" + (f" ({times[key]})" if times[key] > 1 else "")
        if "jpg_0" in fields:
            yield best_of(name, one(name, pair, name, f"{path}: {key}", fields, Reading(ties="half")))
        else:
            yield _photo(name, {field.lower(): stored for field, stored in fields.items()})


def _photo(name: str, fields: Mapping[str, InTar]) -> Photo | SkippedPhoto:
    image = next((fields[ending] for ending in _ENDINGS if ending in fields), None)
    if image is None:
        return SkippedPhoto(name, f"holds no image ({', '.join(_ENDINGS)}), but {', '.join(sorted(fields))}")
    return Photo(name, image, _caption(fields))


def _caption(fields: Mapping[str, InTar]) -> str | None:
    try:
        for field in ("txt", "caption"):
            if field in fields:
                return one_line(text(fields[field]))
        row = json.loads(text(fields["json"])) if "json" in fields else {}
    except (Skip, ValueError, RecursionError):
        return None
    return caption_in(row) if isinstance(row, dict) else None
