"""RealAlign's CSV, a line a pair: uid, prompt, real_image_path, fake_image_path; the real image won."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from contrapose.containers.left_out import LeftOut, attempt
from contrapose.exchange.listings.listed import Listed, Reading, caption, stored
from contrapose.exchange.listings.tables import rows

COLUMNS = ("prompt", "real_image_path", "fake_image_path")


def pairs(path: Path, reading: Reading) -> Iterator[Listed | LeftOut]:
    """The table's rows; raises `UserError` naming the line that is broken."""
    for line, row in rows(path, COLUMNS):
        yield attempt(f"line {line}", _pair, path, f"line {line}", row, reading)


def _pair(path: Path, name: str, row: dict[str, str], reading: Reading) -> Listed:
    winner, loser = (stored(reading.folder(path), row[key], key, f"{path}: {name}") for key in COLUMNS[1:])
    return Listed(name, caption(row["prompt"]), winner, loser)
