"""A photograph on its way to being a winner: what is known of it, and how it is cut."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from PIL import Image

from contrapose.containers.images import digest, read_image
from contrapose.containers.left_out import Skip
from contrapose.containers.places import Place
from contrapose.containers.stored import Stored
from contrapose.errors import UserError
from contrapose.pixels import Size
from contrapose.seeds import identifier
from contrapose.store.buckets import apply, plan_fit
from contrapose.store.records import GroupRecord

Side = Literal["winner", "loser"]
_RESTORE = "put it back as it was, or choose another --out"


@dataclass(frozen=True)
class Candidate:
    """A photograph that may become a winner; its loser is made on the way."""

    number: int  # its place in the listing, from 0
    id: str
    name: str  # as its source lists it
    image: Stored  # its path is relative to the source
    size: Size
    fingerprint: int  # perceptual, 64 bits
    bucket: Size
    seed: int
    caption: str | None
    flip: bool = False
    position: tuple[float, float] = (0.5, 0.5)  # shares of what sticks out that are cropped off at the left and the top
    scores: dict[str, float] = field(default_factory=dict)  # by "winner MEASURE" or "loser MEASURE"
    why: dict[str, str | int | float] = field(default_factory=dict)  # how the loser was made; empty before that

    @property
    def record(self) -> GroupRecord:
        """The pair that it becomes, whose two sides have one prompt; its caption must be there."""
        assert self.caption is not None
        return GroupRecord.pair(self.id, self.caption, "", self.seed)

    def cut(self, root: Place) -> Image.Image:
        """The photograph, scaled and cropped to its bucket; `UserError` when it is not the one that was looked at."""
        place = replace(self.image, path=root / str(self.image.path))
        try:
            image = read_image(place)
        except Skip as skip:
            raise UserError(f"{root}: {skip}; it could be read before: {_RESTORE}") from None
        # by its pixels, which a copy or another tool's metadata leave as they are
        if identifier(self.name, digest(image)) != self.id:
            raise UserError(f"{root}: {self.name} was exchanged since it was looked at; {_RESTORE}")
        [fit] = plan_fit([Size(*image.size)], self.bucket, self.flip, self.position)
        return apply(image, fit)
