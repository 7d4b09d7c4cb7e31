"""A candidate's images: the photograph as it is cut, and once they are made the winner, the loser and the mask."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from contrapose.containers.images import UNREADABLE
from contrapose.containers.places import Place
from contrapose.errors import UserError
from contrapose.files import replacing
from contrapose.photographs.candidates import Candidate, Side
from contrapose.photographs.spoil.spoiler import Spoiled
from contrapose.pixels import Size

_QUICK = 1  # zlib's level: half the size is won at once, and the rest would cost as much as the networks


class Gallery:
    """Images below `folder`, by the candidate's identifier, of photographs whose source lies at `root`."""

    def __init__(self, folder: Path, root: Place):
        self.folder = folder
        self.root = root

    def image(self, candidate: Candidate, side: Side) -> Image.Image:
        """One side of the pair; `UserError` when it cannot be read."""
        if not candidate.why:
            assert side == "winner", "there is no loser yet"
            return candidate.cut(self.root)
        return self.stored(candidate.id, side, candidate.bucket)

    def stored(self, id_: str, side: Side, size: Size) -> Image.Image:
        """An image that was saved; `UserError` when it is gone, broken or of another size."""
        return self._saved(id_, side, size, "RGB")

    def mask(self, id_: str, size: Size) -> Image.Image:
        """What of a pair was changed (white), in shades of grey; errors as `stored` has them."""
        return self._saved(id_, "mask", size, "L")

    def _saved(self, id_: str, name: str, size: Size, mode: str) -> Image.Image:
        path = self._path(id_, name)
        try:
            with Image.open(path, formats=["PNG"]) as image:
                if image.size == size:
                    return image.convert(mode)
        except (*UNREADABLE, Image.DecompressionBombError):
            pass
        raise UserError(f"{path}: gone or broken; delete {self.folder.parent} and run the command again")

    def keep(self, id_: str, winner: Image.Image, spoiled: Spoiled) -> None:
        """Save a pair's images."""
        images = {"winner": winner, "loser": spoiled.image, "mask": spoiled.mask}
        for name, image in images.items():
            if image is not None:
                with replacing(self._path(id_, name)) as aside:
                    image.save(aside, format="PNG", compress_level=_QUICK)

    def _path(self, id_: str, name: str) -> Path:
        return self.folder / f"{id_}.{name}.png"
