"""`metadata.jsonl`, a line a pair: {image_0, image_1, prompt, prefer_0, prefer_1}."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from contrapose.containers.left_out import LeftOut, attempt
from contrapose.errors import UserError
from contrapose.exchange.listings.listed import Listed, Reading, judged, stored
from contrapose.store.prompts import Prompt, read_prompts


def pairs(path: Path, reading: Reading) -> Iterator[Listed | LeftOut]:
    """The larger of two shares wins, and the winner's preference is its part of both; equal shares are a tie.

    Raises `UserError` naming the line where a field is missing or is not what it should be.
    """
    for row in read_prompts(path):
        yield attempt(f"line {row.line}", _pair, path, row, reading)


def _pair(path: Path, row: Prompt, reading: Reading) -> Listed:
    name = f"line {row.line}"
    where = f"{path}: {name}"
    named = {key: field(row, key, where) for key in ("image_0", "image_1")}
    shares = _share(row, "prefer_0", where), _share(row, "prefer_1", where)
    first, second = (stored(reading.folder(path), file, key, where) for key, file in named.items())
    return judged(name, row.text, (first, second), shares, reading.ties)


def _share(row: Prompt, key: str, where: str) -> float:
    share = field(row, key, where)
    if type(share) not in (int, float) or not 0 <= share <= 1e9:
        raise UserError(f"{where}: `{key}` is {share!r}; write a number, such as 1 over 0, or equal ones for a tie")
    return share


def field(row: Prompt, key: str, where: str) -> Any:
    """One field of a line; raises `UserError` naming the line that lacks it."""
    if key not in row.fields:
        raise UserError(f"{where}: has no `{key}` field (fields found: {', '.join(row.fields) or 'none'}); add one")
    return row.fields[key]
