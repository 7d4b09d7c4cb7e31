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
from contrapose.containers.row import caption_of, read_text
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
        texts = [said[key] for key in (CAPTION, "text", "prompt") if key in said]
        for text in texts:
            try:
                return " ".join(caption_of(text).split())
            except Skip:
                continue
        raise self._why_none(f"{PurePath(name).stem}.txt")

    def _why_none(self, sidecar: str) -> Skip:
        """Why there is no caption: what is wrong with the usual sidecar, if it is there."""
        try:
            read_text(InFile(inside(self.folder, sidecar)))
        except Skip as skip:
            missing = skip.kind == "missing"
            return Skip(f"no caption {sidecar} beside the winner", "no caption") if missing else skip
        return Skip(f"{sidecar}: holds no caption", "no caption")
