"""What one decoding of a photograph tells: its size, and whether it is another one's copy or near-copy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn

from contrapose.containers.images import digest, read_image, several
from contrapose.containers.left_out import LeftOut, Skip
from contrapose.photographs.photos.photo import Photo
from contrapose.store.buckets import Size

_SIDE = 32
_NUM_LUMA, _NUM_CHROMA = 48, 4
_COLOURLESS = 0.5  # of 255: what is this faint must not count as a colour, or grey pictures would differ by chance
_ORDER = sorted(((u, v) for u in range(_SIDE) for v in range(_SIDE)), key=lambda uv: (sum(uv), uv))
_ROWS, _COLUMNS = (np.array(axis) for axis in zip(*_ORDER[: _NUM_LUMA + 1], strict=True))


class Look(NamedTuple):
    """A photograph's size, the digest of its pixels and its 64-bit fingerprint."""

    size: Size
    digest: str
    fingerprint: int


def look_at_photos(
    photos: Iterable[Photo | LeftOut], max_pixels: int | None = None
) -> Iterator[tuple[Photo, Look] | LeftOut]:
    """Each photograph with what is seen of it, in order and several at a time, asked for a few ahead.

    One that cannot be read is left out, and one that was left out before stays so.
    """
    return several(partial(_look, max_pixels=max_pixels), photos)


def _look(photo: Photo | LeftOut, max_pixels: int | None) -> tuple[Photo, Look] | LeftOut:
    if isinstance(photo, LeftOut):
        return photo
    try:
        image = read_image(photo.image, max_pixels)
    except Skip as skip:
        return skip.of(photo.name)
    return photo, Look(Size(*image.size), digest(image), fingerprint(image))


def fingerprint(image: Image.Image) -> int:
    """64 bits, of which few change with size, JPEG quality, brightness or contrast, and many in another picture.

    As pHash (Zauner 2010): which of the lowest frequencies, in the DCT of a 32x32 copy, are over their median; 48 of
    brightness. Unlike it, 16 tell the lowest ones of both colour differences to be positive, negative or faint: a red
    and a green circle are two pictures.
    """
    small = image.resize((_SIDE, _SIDE), Image.Resampling.BOX).convert("YCbCr")
    luma, blue, red = (_lowest(plane) for plane in np.moveaxis(np.asarray(small, dtype=np.float64), -1, 0) - 128.0)
    shades = luma[1:] > np.median(luma[1:])
    colours = np.stack([sign * plane[:_NUM_CHROMA] > _COLOURLESS for plane in (blue, red) for sign in (1, -1)])
    bits = np.concatenate([shades.reshape(-1, 3), colours.reshape(-1, 1)], axis=1)  # mixed: few colours say little
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def _lowest(plane: NDArray[np.float64]) -> NDArray[np.float64]:
    """The lowest frequencies, constant first, in units of pixel values."""
    return dctn(plane, norm="ortho")[_ROWS, _COLUMNS] / _SIDE
