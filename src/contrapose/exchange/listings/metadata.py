"""A row a pair: {image_0, image_1, prompt, prefer_0, prefer_1}, as in `metadata.jsonl`."""

from __future__ import annotations

from contrapose.containers.row import ContainerRow
from contrapose.exchange.listings.listed import Format, Listed, Reading, each, judged, share

COLUMNS = ("image_0", "image_1", "prompt", "prefer_0", "prefer_1")


def _pair(row: ContainerRow, reading: Reading) -> Listed:
    """The larger of two shares wins, and the winner's preference is its part of both; equal shares are a tie."""
    shares = share(row, "prefer_0"), share(row, "prefer_1")
    folder = reading.folder(row)
    images = row.image("image_0", folder), row.image("image_1", folder)
    return judged(row.name, row.caption("prompt"), images, shares, reading.ties)


METADATA = Format(("image_0",), each(_pair, COLUMNS), COLUMNS, frozenset({"ties", "image_folder", "split"}))
