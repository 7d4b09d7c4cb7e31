"""What one decoding of a photograph tells: its size, and whether it is another one's copy or near-copy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy.fft import dctn

from contrapose.containers.images import digest, read_image, several
from contrapose.containers.left_out import LeftOut, Skip
from contrapose.photographs.photos.photo import Photo
from contrapose.pixels import Size

_SIDE = 32
_NUM_LUMA = 48
_NUM_CHROMA = 4
_COLOURLESS = 0.5  # of 255: what is this faint must not count as a colour, or grey pictures would differ by chance
# Frequencies (u, v) from the lowest up, that is by u + v: the constant, and as many of the others as give a bit each.
_FREQUENCIES = sorted((u + v, u, v) for u in range(_SIDE) for v in range(_SIDE))[: _NUM_LUMA + 1]
_ROWS = np.array([u for _, u, _ in _FREQUENCIES])
_COLUMNS = np.array([v for _, _, v in _FREQUENCIES])


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

    A pHash (Zauner 2010): 48 bits say which of the lowest DCT frequencies of a 32x32 copy's brightness exceed their
    median. Unlike pHash, 16 more bits say whether the lowest frequencies of both colour differences are positive,
    negative or faint, so that a red and a green circle differ.
    """
    small = image.resize((_SIDE, _SIDE), Image.Resampling.BOX).convert("YCbCr")
    planes = np.moveaxis(np.asarray(small, dtype=np.float64), -1, 0) - 128.0
    # the lowest frequencies of each plane, in units of pixel values
    luma, blue, red = (dctn(plane, norm="ortho")[_ROWS, _COLUMNS] / _SIDE for plane in planes)
    # without the constant, which is brightness; above the median, since that is half of the bits for any picture
    shades = luma[1:] > np.median(luma[1:])
    colours = np.stack([sign * plane[:_NUM_CHROMA] > _COLOURLESS for plane in (blue, red) for sign in (1, -1)])
    bits = np.concatenate([shades.reshape(-1, 3), colours.reshape(-1, 1)], axis=1)  # mixed: few colours say little
    return int.from_bytes(np.packbits(bits).tobytes(), "big")
