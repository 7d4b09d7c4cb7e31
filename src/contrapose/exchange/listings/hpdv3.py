"""HPDv3's JSON: a list of {prompt, path1, path2, model1, model2}, of which `path1` won."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from contrapose.containers.left_out import LeftOut, Skip, attempt
from contrapose.errors import UserError
from contrapose.exchange.listings.json_stream import items
from contrapose.exchange.listings.listed import Listed, Reading, caption, stored


def pairs(path: Path, reading: Reading) -> Iterator[Listed | LeftOut]:
    """The list's entries, read one by one; `reading.only_models` keeps those whose images are both of these models.

    Raises `UserError` naming the entry that lacks a field, or after which the file is broken.
    """
    for number, entry in items(path):
        name, where = f"entry {number}", f"{path}: entry {number}"
        yield attempt(name, _pair, path, name, where, entry, reading)


def _pair(path: Path, name: str, where: str, entry: dict[str, Any], reading: Reading) -> Listed:
    for key in ("prompt", "path1", "path2", *(("model1", "model2") if reading.only_models else ())):
        if key not in entry:
            raise UserError(f"{where}: has no `{key}` (found: {', '.join(entry) or 'nothing'}); add it")
    for key in ("model1", "model2") if reading.only_models else ():
        if entry[key] not in reading.only_models:
            raise Skip(f"{key} is {entry[key]}, which is not among --only-models")
    winner, loser = (stored(reading.folder(path), entry[key], key, where) for key in ("path1", "path2"))
    return Listed(name, caption(entry["prompt"]), winner, loser)
