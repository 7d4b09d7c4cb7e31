"""{prompt, chosen, rejected}, as TRL and open-image-preferences have it: images in Parquet, or names of files."""

from __future__ import annotations

from contrapose.containers.row import ContainerRow
from contrapose.exchange.listings.listed import Format, Listed, Reading, each

COLUMNS = ("prompt", "chosen", "rejected")


def _pair(row: ContainerRow, reading: Reading) -> Listed:
    folder = reading.folder(row)
    winner = row.image("chosen", folder)
    loser = row.image("rejected", folder)
    return Listed.pair(row.name, row.caption("prompt"), winner, loser)


CHOSEN = Format(("chosen", "rejected"), each(_pair, COLUMNS), COLUMNS, frozenset({"image_folder", "split"}))
