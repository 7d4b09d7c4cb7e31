"""Images of any kind as upright 8-bit RGB, and their sizes."""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image

_Turn = Image.Transpose
_TURNS = {
    2: _Turn.FLIP_LEFT_RIGHT,
    3: _Turn.ROTATE_180,
    4: _Turn.FLIP_TOP_BOTTOM,
    5: _Turn.TRANSPOSE,
    6: _Turn.ROTATE_270,
    7: _Turn.TRANSVERSE,
    8: _Turn.ROTATE_90,
}


class Size(NamedTuple):
    """An image's size in pixels, written WIDTHxHEIGHT."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"

    @property
    def ratio(self) -> float:
        """Aspect ratio, width over height."""
        return self.width / self.height


def as_rgb(image: Image.Image) -> Image.Image:
    """The image upright (EXIF), in 8-bit RGB: what is transparent lies on white, 16 bits become 8, CMYK is converted.

    An animation gives its first frame. Raises `ValueError` for floating-point pixels, whose range nothing tells.
    """
    image = _upright(image)
    if image.mode == "F":
        raise ValueError("floating-point pixels; save it as an 8-bit image")
    if image.mode == "I" or image.mode.startswith("I;16"):
        pixels = np.asarray(image).astype(np.float64) / 257  # 65535 becomes 255
        return Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.getbands()[-1] in ("A", "a") or "transparency" in image.info:
        colours = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), colours).convert("RGB")
    return image.convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF says; `ImageOps.exif_transpose` fails where it is broken."""
    image.load()  # a PNG's EXIF may come after its pixels, and a TIFF turns itself
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except (OSError, SyntaxError, ValueError, TypeError, LookupError, struct.error):
        turn = None
    return image if turn is None else image.transpose(turn)
