"""What every listing gives: pairs by their names and places, and what was left out with its reason."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from contrapose.containers.left_out import Skip
from contrapose.containers.stored import InFile, InTar, Stored, TooLarge
from contrapose.errors import UserError
from contrapose.store.prompts import is_writable

Ties = Literal["drop", "half"]
_LONGEST_TEXT = 1 << 16  # bytes of a caption or label
_HIDDEN = (".", "__MACOSX")


@dataclass(frozen=True, slots=True)
class Listed:
    """One pair as it is listed, by the hundred thousand in memory: texts and places, never an image.

    `name` is its stem, line, entry or row, and `preference` the winner's share: 1 decided, 0.5 a tie.
    """

    name: str
    prompt: str
    winner: Stored
    loser: Stored
    preference: float = 1.0
    degraded: str = ""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a listing is read; a format takes some of these, and the others are refused with it."""

    ties: Ties = "drop"
    """What becomes of equally preferred images: left out, or kept with a preference of one half."""
    images: Path | None = None
    """Folder that the listing's image files are named from; the listing's own when unset."""
    only_models: tuple[str, ...] = ()
    """Of HPDv3, only pairs whose images are both of these models, such as real_images or flux; all when empty."""
    split: str | None = None
    """Which of several splits of a Parquet data set, such as train."""

    def folder(self, listing: Path) -> Path:
        """The folder that image files are named from, and never leave."""
        return self.images or listing.parent


def judged(
    name: str, prompt: str, images: tuple[Stored, Stored], shares: tuple[float, float], ties: Ties, degraded: str = ""
) -> Listed:
    """The pair whose winner has the larger share, its preference being its part of both; equal shares are a tie.

    Raises `Skip` for a tie unless those are kept.
    """
    if shares[0] == shares[1] and ties == "drop":
        raise Skip("a tie; it is kept with --ties half", "tie")
    winner, loser = images if shares[0] >= shares[1] else reversed(images)
    return Listed(name, prompt, winner, loser, max(shares) / sum(shares) if any(shares) else 0.5, degraded)


def caption(text: Any) -> str:
    """The text as it is; raises `Skip` when it is none, or holds what nothing later could read or write."""
    if not isinstance(text, str) or not text.strip():
        raise Skip("has no caption", "no caption")
    if not is_writable(text):
        raise Skip("its caption holds a NUL or half a character")
    return text


def text(stored: Stored) -> str:
    """A caption or label file, without a byte order mark; raises `Skip` when it is too long for one, or not UTF-8."""
    name = stored.member if isinstance(stored, InTar) else stored.name
    try:
        data = stored.read(_LONGEST_TEXT)
    except TooLarge:
        raise Skip(f"{name}: is too long for a text") from None
    except OSError as error:
        raise Skip(f"{name}: cannot be read ({error.strerror or error})") from None
    try:
        return data.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise Skip(f"{name}: is not readable as UTF-8") from None


def is_hidden(name: str) -> bool:
    """Whether a file or folder in an archive is hidden, as are those that macOS adds; nobody means them."""
    return any(part.startswith(_HIDDEN) for part in name.split("/") if part not in (".", ".."))


def first_share(label: Any, key: str, where: str) -> tuple[float, float]:
    """The shares of both images, of a label that is the first one's: 1 it won, 0 it lost, 0.5 a tie.

    Raises `UserError` for whatever is no number in 0..1: a label that is a text is true even where it says 0, and so
    the first image always wins.
    """
    if type(label) not in (int, float) or not 0 <= label <= 1:
        raise UserError(f"{where}: `{key}` is {label!r}; write a number: 1 or 0, or 0.5 for a tie")
    return float(label), 1.0 - label


def number(text: str) -> float | str:
    """The number that a text file's field spells; the text itself when it spells none."""
    try:
        return float(text)
    except ValueError:
        return text


def stored(folder: Path, name: Any, key: str, where: str) -> InFile:
    """The file that a listing names; raises `Skip` when it is missing, and `UserError` when that is no name at all."""
    if not isinstance(name, str) or not name:
        raise UserError(f"{where}: `{key}` is {name!r}; write the name of a file")
    return InFile(inside(folder, name))


class Missing(Skip):
    """There is no file of this name."""


def inside(folder: Path, name: str) -> Path:
    """The file of this name in or below the folder; raises `Missing`, and `Skip` when it leads out of the folder.

    Both ways to write an accent, as a letter of its own or not, are one name.
    """
    for form in dict.fromkeys((name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD")))):
        path = folder / form
        try:
            resolved = path.resolve()
            if not resolved.is_relative_to(_resolved(folder.absolute())):
                points_out = Path(name).is_absolute() or ".." in Path(name).parts
                how = "leaves the folder" if points_out else "is a link that leads out of the folder"
                raise Skip(f"{name}: {how}")
            if resolved.is_file():
                return path
        except (OSError, RuntimeError, ValueError):  # a loop of links, a name too long, a NUL
            continue
    raise Missing(f"{name}: no such file" + ("; write / between folders, not \\" if "\\" in name else ""))


@lru_cache(maxsize=16)
def _resolved(folder: Path) -> Path:
    """Looked up once, not for each of a million files."""
    return folder.resolve()
