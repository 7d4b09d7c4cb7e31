"""Photographs that a text file names: a CSV or JSON lines table, or HPDv3's list of pairs.

Files are named from the table's folder and never leave it; rows are read one at a time.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from contrapose.containers.left_out import LeftOut, Skip
from contrapose.errors import UserError
from contrapose.exchange.listings.json_stream import items
from contrapose.exchange.listings.listed import stored
from contrapose.exchange.listings.tables import header, rows
from contrapose.photographs.photos.photo import CAPTIONS, Photo, caption_in, one_line

FILES = ("file_path", "image", "file_name", "real_image_path")
REAL = "real_images"  # HPDv3's word for the source of its photographs


def csv_photos(path: Path, label: str) -> Iterator[Photo | LeftOut]:
    """The rows' images; raises `UserError` naming the line that is broken, or when no column names files."""
    _file_column(path, header(path))
    yield from _photos(path, label, rows(path, ()))


def jsonl_photos(path: Path, label: str) -> Iterator[Photo | LeftOut]:
    """The lines' images; raises `UserError` naming the line that is no JSON object or names no file."""
    yield from _photos(path, label, _objects(path))


def hpdv3_photos(path: Path, label: str) -> Iterator[Photo | LeftOut]:
    """The images whose model is `real_images`, winners and losers alike, captioned by their prompts.

    Raises `UserError` naming the entry that is broken or has no `path1` and `path2`.
    """
    for number, entry in items(path):
        where = f"{path}: entry {number}"
        if "path1" not in entry or "path2" not in entry:
            raise UserError(
                f"{where}: has no `path1` and `path2` (found: {', '.join(entry) or 'nothing'}); .json is read as "
                "HPDv3's list of pairs"
            )
        for side in ("1", "2"):
            if entry.get(f"model{side}") == REAL:
                name, key = f"{label} entry {number} path{side}", f"path{side}"
                yield _photo(path, name, entry[key], one_line(entry.get("prompt")), key, where)


def _photos(path: Path, label: str, table: Iterable[tuple[int, Mapping[str, Any]]]) -> Iterator[Photo | LeftOut]:
    for line, row in table:
        where = f"{path}: line {line}"
        column = _file_column(where, row)
        yield _photo(path, f"{label} line {line}", row[column], caption_in(row), column, where)


def _photo(path: Path, name: str, file: Any, caption: str | None, key: str, where: str) -> Photo | LeftOut:
    try:
        return Photo(name, stored(path.parent, file, key, where), caption)
    except Skip as skip:
        return skip.of(name)


def _file_column(where: Path | str, names: Iterable[str]) -> str:
    found = set(names)
    column = next((name for name in FILES if name in found), None)
    if column is None:
        raise UserError(
            f"{where}: names no image file (found: {', '.join(sorted(found)) or 'nothing'}); photographs need one of "
            f"{', '.join(FILES)}, and {' or '.join(CAPTIONS)} for their caption"
        )
    return column


def _objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Every line that is not blank, with its number counted from 1."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if not text.strip():
                continue
            try:
                row = json.loads(text.decode("utf-8"))
            except (ValueError, RecursionError) as error:
                reason = " ".join(str(error).split())
                raise UserError(
                    f"{path}: line {number}: is not one JSON object ({reason}); mend or remove it"
                ) from None
            if not isinstance(row, dict):
                raise UserError(f'{path}: line {number}: is not a JSON object; write {{"file_name": "...", ...}}')
            yield number, row
