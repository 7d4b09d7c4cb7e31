"""Images inside a page: made small, and written into it as text."""

from __future__ import annotations

import base64
import io
from typing import NamedTuple

from PIL import Image

PIXEL_ART = 128  # up to this side, pixels are shown as squares rather than blurred
_QUALITY = 90  # of JPEG: no difference is seen beside PNG, which takes five times as much


class Thumbnail(NamedTuple):
    """An image as a page holds it."""

    url: str
    """A data URL, for an `img`."""
    width: int
    height: int
    pixelated: bool
    """Whether its pixels are to stay visible when it is enlarged."""


def thumbnail(image: Image.Image, largest: int) -> Thumbnail:
    """An RGB image whose longer side is at most `largest` pixels: PNG where it is a small one, else JPEG."""
    pixelated = max(image.size) <= PIXEL_ART
    small = image.copy()
    small.thumbnail((largest, largest), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    kind = "png" if pixelated else "jpeg"
    if pixelated:
        small.save(buffer, format="PNG", optimize=True)
    else:
        # colours at full resolution, since a pair may differ in them alone
        small.save(buffer, format="JPEG", quality=_QUALITY, subsampling=0, optimize=True)
    text = base64.b64encode(buffer.getvalue()).decode("ascii")
    return Thumbnail(f"data:image/{kind};base64,{text}", small.width, small.height, pixelated)
