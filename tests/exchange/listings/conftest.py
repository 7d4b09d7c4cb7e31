"""Image files as bytes, and what a listing says."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from contrapose.exchange.listings import FormatName, Listing, Reading, source_pairs


@pytest.fixture(scope="session")
def picture() -> Callable[..., bytes]:
    """The file of a random picture, by its seed."""

    def make(seed: int, size: tuple[int, int] = (16, 16), kind: str = "PNG") -> bytes:
        pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, kind)
        return file.getvalue()

    return make


@pytest.fixture
def listed() -> Callable[..., Listing]:
    """The pairs of a source, with settings of `Reading`."""

    def read(source: Path, format: FormatName = "auto", **settings: object) -> Listing:
        return source_pairs(source, Reading(**settings), format)  # type: ignore[arg-type]

    return read


@pytest.fixture
def reasons() -> Callable[[Listing], dict[str, str]]:
    return lambda listing: {entry.name: entry.reason for entry in listing.left_out}
