"""RealAlign's table, a row a pair: uid, prompt, real_image_path, fake_image_path; the real image won."""

from __future__ import annotations

from contrapose.containers.row import ContainerRow
from contrapose.exchange.listings.listed import Format, Listed, Reading, each

COLUMNS = ("prompt", "real_image_path", "fake_image_path")


def _pair(row: ContainerRow, reading: Reading) -> Listed:
    folder = reading.folder(row)
    winner = row.image("real_image_path", folder)
    loser = row.image("fake_image_path", folder)
    return Listed.pair(row.name, row.caption("prompt"), winner, loser)


REAL_FAKE = Format(("real_image_path",), each(_pair, COLUMNS), COLUMNS, frozenset({"image_folder", "split"}))
