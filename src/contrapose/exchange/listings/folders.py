"""Two folders: images of the same stem, each winner's caption beside it."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from pathlib import PurePath

from contrapose.containers.folders import CAPTION, said_beside, sidecars
from contrapose.containers.images import IMAGES, UNREAD, unread
from contrapose.containers.left_out import LeftOut, Skip, attempt
from contrapose.containers.places import Entry, Place, entries, inside
from contrapose.containers.readers import readable
from contrapose.containers.row import caption_of
from contrapose.containers.stored import InFile
from contrapose.errors import UserError
from contrapose.exchange.listings.listed import Listed


def pairs(winners: Place, losers: Place) -> Iterator[Listed | LeftOut]:
    """Images of the same stem in both folders, the caption in `winners/STEM.txt` or another sidecar.

    Raises `UserError` when a folder is missing or holds no images.
    """
    left = _Images(winners)
    right = _Images(losers)

    def pair(stem: str) -> Listed:
        winner = left.only(stem)
        loser = right.only(stem)
        return Listed.pair(stem, left.caption(winner.path.name), winner, loser)

    for stem in sorted({*left.by_stem, *right.by_stem}):
        yield attempt(stem, pair, stem)


class _Images:
    """The images of a folder by their stems, in which both ways to write an accent are one name."""

    def __init__(self, folder: Place):
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; name one that holds images")
        with readable(folder):
            held = entries(folder)
        self.folder = folder
        self.beside = sidecars(held)
        self.by_stem: dict[str, list[Entry]] = {}
        for entry in held:
            if entry.place.suffix.lower() in (*IMAGES, *UNREAD):
                # macOS writes é as e with an accent, other systems as one letter
                stem = unicodedata.normalize("NFC", PurePath(entry.name).stem)
                self.by_stem.setdefault(stem, []).append(entry)
        if not self.by_stem:
            raise UserError(f"{folder}: holds no images ({', '.join(IMAGES)}); name the folder that they are in")

    def only(self, stem: str) -> InFile:
        """The one image of this stem; raises `Skip` when there is none, or several."""
        images = self.by_stem.get(stem, [])
        if not images:
            raise Skip(f"no image of this name in {self.folder.name}", "no partner")
        if len(images) > 1:
            names = ", ".join(image.name for image in images)
            raise Skip(f"several images of this name in {self.folder.name}: {names}")
        if images[0].place.suffix.lower() in UNREAD:
            raise Skip(unread(images[0].name), "unreadable")
        return InFile(inside(self.folder, images[0].name))

    def caption(self, name: str) -> str:
        """What the sidecars of an image say, in one line; raises `Skip` where that is nothing."""
        said = said_beside(self.folder, PurePath(name), self.beside)
        texts = [said.fields[key] for key in (CAPTION, "text", "prompt") if key in said.fields]
        for text in texts:
            try:
                return " ".join(caption_of(text).split())
            except Skip:
                continue
        usual = f"{PurePath(name).stem}.txt"
        none = (
            f"{usual}: holds no caption" if usual in self.beside.values() else f"no caption {usual} beside the winner"
        )
        raise said.unread or Skip(none, "no caption")
