"""Paths by a model's name, as flags give them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from contrapose.errors import UserError
from contrapose.evaluate.summary import BOUNDS
from contrapose.evaluate.training_seeds import check_names


def named_paths(pairs: Sequence[str], flag: str, kind: str) -> dict[str, Path]:
    """`NAME=PATH` arguments as a mapping; `UserError` naming the flag for anything else, or a name used twice."""
    paths: dict[str, Path] = {}
    for pair in pairs:
        name, equals, path = pair.partition("=")
        if not (name and equals and path):
            raise UserError(f"{flag} {pair}: write NAME={kind}")
        if name in paths:
            raise UserError(f"{flag} {pair}: the name {name} is taken")
        paths[name] = Path(path)
    return paths


def named_folders(pairs: Sequence[str]) -> dict[str, Path]:
    """`NAME=FOLDER` arguments as a mapping; `UserError` for anything else, or a name used twice.

    A name METHOD/SEED is one training run of a method.
    """
    folders = named_paths(pairs, "--images", "FOLDER")
    for name, folder in folders.items():
        if name.partition("/")[0] in BOUNDS:
            raise UserError(f"--images {name}={folder}: the name {name} is taken")
    check_names(folders)
    return folders
