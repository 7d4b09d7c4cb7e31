"""Images that users have: opened with care, since they come from anywhere, and looked at several at a time."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import threading
import warnings
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import NamedTuple, TypeVar

from PIL import Image, UnidentifiedImageError

from contrapose.containers.left_out import Skip
from contrapose.containers.places import Place
from contrapose.containers.stored import InFile, Stored
from contrapose.pixels import Size, as_rgb

IMAGES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".pjpeg", ".pjp", ".mpo", ".webp", ".gif"),
    *(".bmp", ".dib", ".tif", ".tiff"),
)
UNREAD = (
    *(".avif", ".heic", ".heif", ".hif", ".jp2", ".j2k", ".jxl", ".ppm", ".pgm", ".tga", ".psd", ".svg", ".eps"),
    *(".exr", ".hdr", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".ico"),
)
"""Endings of images that are counted and left out, since their formats are not read."""
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")  # others, such as EPS, run programs
_LFS_POINTER = b"version https://git-lfs"
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, struct.error, zlib.error)
NUM_THREADS = min(8, os.cpu_count() or 1)
_WARNINGS = threading.Lock()  # `warnings.catch_warnings` is for the whole process
T = TypeVar("T")
R = TypeVar("R")


def unread(name: str) -> str:
    """Why an image with one of the endings `UNREAD` is left out."""
    return f"{name}: its format is not read ({', '.join(_FORMATS)} are); save it as one of those"


def read_image(where: Place | Stored, max_pixels: int | None = None) -> Image.Image:
    """The image upright and in RGB, an animation's first frame; its format is told by its content, never by its name.

    Raises `Skip`, with the image's name but never a place on this machine, when it is empty, broken, of an unknown
    format, or larger than `max_pixels`, which is checked before the pixels are decoded. Without `max_pixels` the limit
    is PIL's own, about 89 million pixels; PIL refuses more than twice that in any case.
    """
    stored = InFile(where) if isinstance(where, Place) else where
    try:
        data = stored.read()
        if not data:
            raise _unreadable(f"{stored.name}: is empty")
        if data.startswith(_LFS_POINTER):
            raise _unreadable(
                f"{stored.name}: is Git LFS's pointer to an image, not the image; fetch it (git lfs pull)"
            )
        with _opened(io.BytesIO(data), stored.name, max_pixels) as image:
            image.load()
            with _quiet(), suppress(*UNREADABLE):
                image.getexif()  # which PIL keeps: broken ones warn here, and matter to nobody
            return as_rgb(image)
    except Image.DecompressionBombError:
        raise Skip(
            f"{stored.name}: has more pixels than PIL's limit of {Image.MAX_IMAGE_PIXELS}", "unreadable"
        ) from None
    except UnidentifiedImageError:
        raise Skip(
            f"{stored.name}: cannot be read (cannot identify it as any of {', '.join(_FORMATS)})", "unreadable"
        ) from None
    except UNREADABLE as error:
        message = getattr(error, "strerror", None) or str(error) or type(error).__name__
        reason = " ".join(message.replace(str(stored.path), stored.path.name).split())
        raise _unreadable(f"{stored.name}: cannot be read ({reason})") from None


def _unreadable(reason: str) -> Skip:
    return Skip(reason, "unreadable")


def _opened(file: io.BytesIO, name: str, max_pixels: int | None) -> Image.Image:
    """The image before it is decoded, its size being within the limit."""
    limit = Image.MAX_IMAGE_PIXELS if max_pixels is None else max_pixels
    with _quiet():  # about the size, which is looked at below
        image = Image.open(file, formats=_FORMATS)
    if limit is not None and image.width * image.height > limit:
        whose = "PIL's limit of " if max_pixels is None else ""
        raise _unreadable(f"{name}: has more pixels than {whose}{limit} ({Size(*image.size)})")
    return image


@contextmanager
def _quiet() -> Iterator[None]:
    """PIL's warnings are dropped."""
    with _WARNINGS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def digest(image: Image.Image) -> str:
    """sha256 of the size and the pixels: the same for one picture in two lossless files."""
    return hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()


class Seen(NamedTuple):
    """The sizes of a group's images, and digests of their pixels."""

    sizes: tuple[Size, ...]
    digests: tuple[str, ...]


def look(places: Iterable[Place | Stored]) -> Seen:
    """The sizes and digests of a group's images; raises `Skip` for the first one that cannot be read."""
    sizes: list[Size] = []
    digests: list[str] = []
    for place in places:
        image = read_image(place)
        sizes.append(Size(*image.size))
        digests.append(digest(image))
    return Seen(tuple(sizes), tuple(digests))


def several(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """`work` of every item, in order and several at a time (decoding lets go of Python's lock), a few items ahead."""
    pool = ThreadPoolExecutor(NUM_THREADS)
    waiting: deque[Future[R]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > 2 * NUM_THREADS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
