"""Two folders: images of the same stem, each winner's caption beside it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from contrapose.curate.images import IMAGES, Skip
from contrapose.curate.listings.listed import Left, Listed, inside, one
from contrapose.curate.stored import InFile
from contrapose.errors import UserError


def pairs(winners: Path, losers: Path) -> Iterator[Listed | Left]:
    """Images of the same stem in both folders, the caption in `winners/STEM.txt`.

    Raises `UserError` when a folder is missing or holds no images.
    """
    left, right = _by_stem(winners), _by_stem(losers)

    def listed(stem: str) -> Listed:
        winner, loser = (_only(found.get(stem, []), folder) for folder, found in ((winners, left), (losers, right)))
        return Listed(stem, _caption(winners, stem), winner, loser)

    for stem in sorted({*left, *right}):
        yield one(stem, listed, stem)


def _by_stem(folder: Path) -> dict[str, list[Path]]:
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; name one that holds images")
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in IMAGES and not path.name.startswith("."):
            found.setdefault(path.stem, []).append(path)
    if not found:
        raise UserError(f"{folder}: holds no images ({', '.join(IMAGES)}); name the folder that they are in")
    return found


def _only(paths: list[Path], folder: Path) -> InFile:
    if not paths:
        raise Skip(f"no image of this name in {folder.name}")
    if len(paths) > 1:
        raise Skip(f"several images of this name in {folder.name}: {', '.join(path.name for path in paths)}")
    return InFile(inside(folder, paths[0].name))


def _caption(folder: Path, stem: str) -> str:
    """The caption file's text in one line."""
    name = f"{stem}.txt"
    if not (folder / name).exists():
        raise Skip(f"no caption {name} beside the winner")
    try:
        text = inside(folder, name).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        raise Skip(f"{name}: is not readable as UTF-8") from None
    if not text.strip() or "\0" in text:
        raise Skip(f"{name}: holds no caption")
    return " ".join(text.split())
