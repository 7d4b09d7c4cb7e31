"""A source of photographs as a short digest: the same wherever it lies, another when an image or a caption changes."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import fields

from contrapose.containers.left_out import LeftOut
from contrapose.containers.places import Place, Remote
from contrapose.containers.stored import InFile, Stored
from contrapose.contents import file_digest
from contrapose.photographs.photos.photo import Photo

_ENDS = 2  # pieces read of each image file: a hundred thousand must be known again in seconds


def count_and_digest(listing: Iterable[Photo | LeftOut]) -> tuple[int, str]:
    """How many photographs are listed, and a digest of their names, captions and files in their order.

    An image counts by its size, its start and its end; what became of its pixels is told when it is opened.
    """
    num = 0
    digest = hashlib.sha256()
    archive = functools.cache(_file)
    for photo in listing:
        said = (photo.reason,) if isinstance(photo, LeftOut) else (photo.caption, *_place(photo.image, archive))
        digest.update(repr((photo.name, *said)).encode("utf-8", "surrogatepass") + b"\n")
        num += 1
    return num, digest.hexdigest()[:16]


def _place(image: Stored, archive: Callable[[Place], str]) -> tuple[object, ...]:
    """What an image is known by: its file's content, and where it is in a tar or table."""
    if isinstance(image, InFile):
        return (_file(image.path, _ENDS),)
    return archive(image.path), *(getattr(image, field.name) for field in fields(image)[1:])


def _file(path: Place, pieces: int | None = None) -> str:
    try:
        if isinstance(path, Remote):
            return path.version()
        return file_digest(path) if pieces is None else file_digest(path, pieces)
    except OSError as error:  # such an image is left out with its reason, and may be readable the next time
        return f"unreadable {error.errno}"
