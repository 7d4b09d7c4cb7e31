"""Two folders: images of the same stem, each winner's caption beside it."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from pathlib import Path

from contrapose.containers.images import IMAGES, UNREAD, unread
from contrapose.containers.left_out import LeftOut, Skip, attempt
from contrapose.containers.stored import InFile
from contrapose.errors import UserError
from contrapose.exchange.listings.listed import Listed, Missing, inside, is_hidden, text
from contrapose.store.prompts import is_writable


def pairs(winners: Path, losers: Path) -> Iterator[Listed | LeftOut]:
    """Images of the same stem in both folders, the caption in `winners/STEM.txt`.

    Raises `UserError` when a folder is missing or holds no images.
    """
    left, right = _by_stem(winners), _by_stem(losers)

    def listed(stem: str) -> Listed:
        winner, loser = (_only(found.get(stem, []), folder) for folder, found in ((winners, left), (losers, right)))
        return Listed(stem, _caption(winners, stem), winner, loser)

    for stem in sorted({*left, *right}):
        yield attempt(stem, listed, stem)


def _by_stem(folder: Path) -> dict[str, list[Path]]:
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; name one that holds images")
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in (*IMAGES, *UNREAD) and not is_hidden(path.name):
            # macOS writes accents as letters of their own; both ways to write a name are one name
            found.setdefault(unicodedata.normalize("NFC", path.stem), []).append(path)
    if not found:
        raise UserError(f"{folder}: holds no images ({', '.join(IMAGES)}); name the folder that they are in")
    return found


def _only(paths: list[Path], folder: Path) -> InFile:
    if not paths:
        raise Skip(f"no image of this name in {folder.name}")
    if len(paths) > 1:
        raise Skip(f"several images of this name in {folder.name}: {', '.join(path.name for path in paths)}")
    if paths[0].suffix.lower() in UNREAD:
        raise Skip(unread(paths[0].name))
    return InFile(inside(folder, paths[0].name))


def _caption(folder: Path, stem: str) -> str:
    """The caption file's text in one line."""
    name = f"{stem}.txt"
    try:
        path = inside(folder, name)
    except Missing:
        raise Skip(f"no caption {name} beside the winner", "no caption") from None
    said = text(InFile(path))
    if not said or not is_writable(said):
        raise Skip(f"{name}: holds no caption", "no caption")
    return " ".join(said.split())
