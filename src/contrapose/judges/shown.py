"""Images as servers are shown them, and what their numbers may be called."""

from __future__ import annotations

import re
from io import BytesIO

from PIL.Image import Image

from contrapose.containers.images import digest
from contrapose.errors import UserError, one_line

_METRIC = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")


def digest_of_pixels(image: Image) -> str:
    """A digest of what is seen of an image, whatever its file."""
    return digest(image.convert("RGB"))


def check_metric_name(where: str, name: str) -> None:
    """Raise `UserError` for what no number may be called in tables and pages."""
    if not _METRIC.fullmatch(name):
        raise UserError(
            f"{where}: {one_line(repr(name))} is no name of a number; use letters, digits, _, . and -, 64 at most"
        )


def as_png(image: Image) -> bytes:
    """The RGB image as a PNG file, packed loosely: it is sent once and never kept."""
    file = BytesIO()
    image.convert("RGB").save(file, "PNG", compress_level=1)
    return file.getvalue()
