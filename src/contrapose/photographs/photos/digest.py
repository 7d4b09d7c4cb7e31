"""A source of photographs as a short digest: the same wherever it lies, another when an image or a caption changes."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable
from dataclasses import fields

from contrapose.containers.left_out import LeftOut
from contrapose.containers.places import Place, file_digest_at
from contrapose.containers.stored import InFile
from contrapose.photographs.photos.photo import Photo

_ENDS = 2  # pieces read of each image file: a hundred thousand must be known again in seconds


def count_and_digest(listing: Iterable[Photo | LeftOut]) -> tuple[int, str]:
    """How many photographs are listed, and a digest of their names, captions and files in their order.

    An image counts by its size, its start and its end; a change of the pixels between is noticed when it is opened.
    """
    num = 0
    digest = hashlib.sha256()
    archive = functools.cache(_file)
    for photo in listing:
        said: tuple[object, ...]
        if isinstance(photo, LeftOut):
            said = (photo.reason,)
        elif isinstance(photo.image, InFile):
            said = (photo.caption, _file(photo.image.path, _ENDS))
        else:  # in a tar or a table: the file's digest, and the image's place in there
            place = [getattr(photo.image, field.name) for field in fields(photo.image)[1:]]
            said = (photo.caption, archive(photo.image.path), *place)
        digest.update(repr((photo.name, *said)).encode("utf-8", "surrogatepass") + b"\n")
        num += 1
    return num, digest.hexdigest()[:16]


def _file(path: Place, pieces: int | None = None) -> str:
    try:
        return file_digest_at(path, pieces)
    except OSError as error:  # such an image is left out with its reason, and may be readable the next time
        return f"unreadable {error.errno}"
