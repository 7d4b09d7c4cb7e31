"""A candidate's images: the photograph as it is cut, and once they are made the winner, the loser and the mask."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

from PIL import Image

from contrapose.containers.images import UNREADABLE
from contrapose.containers.left_out import LeftOut
from contrapose.errors import UserError
from contrapose.files import replacing
from contrapose.photographs.candidates import Candidate, Row
from contrapose.photographs.spoil.studio import Spoiled
from contrapose.store.buckets import Size

_QUICK = 1  # zlib's level: half the size is won at once, and the rest would cost as much as the networks


class Gallery:
    """Images below `folder`, by the candidate's identifier, of photographs whose source lies at `root`."""

    def __init__(self, folder: Path, root: Path):
        self.folder, self.root = folder, root

    def path(self, id_: str, what: str) -> Path:
        return self.folder / f"{id_}.{what}.png"

    def image(self, candidate: Candidate, side: Literal["winner", "loser"]) -> Image.Image:
        """One side of the pair; `UserError` when it cannot be read."""
        if not candidate.why:
            assert side == "winner", "there is no loser yet"
            return candidate.cut(self.root)
        return self.stored(candidate.id, side, candidate.bucket)

    def stored(self, id_: str, side: Literal["winner", "loser"], size: Size) -> Image.Image:
        """An image that was saved; `UserError` when it is gone, broken or of another size."""
        path = self.path(id_, side)
        try:
            with Image.open(path, formats=["PNG"]) as image:
                if image.size == size:
                    return image.convert("RGB")
        except (*UNREADABLE, Image.DecompressionBombError):
            pass
        raise UserError(f"{path}: gone or broken; delete {self.folder.parent} and run the command again")

    def keep(self, candidate: Candidate, winner: Image.Image, spoiled: Spoiled) -> Row:
        """Save a pair's images; one whose two sides are the same is left out."""
        if winner.tobytes() == spoiled.image.tobytes():
            return LeftOut(candidate.name, "unspoiled", "the loser came out as the very photograph")
        images = {"winner": winner, "loser": spoiled.image, "mask": spoiled.mask}
        for what, image in images.items():
            if image is not None:
                with replacing(self.path(candidate.id, what)) as aside:
                    image.save(aside, format="PNG", compress_level=_QUICK)
        return replace(candidate, why=dict(spoiled.why))
