"""Image-to-image: the photograph is covered with noise in part and drawn again under its caption."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from PIL import Image

from contrapose.photographs.spoil.spoiler import Spoiled
from contrapose.ranges import ShareAbove0, checked

if TYPE_CHECKING:
    from contrapose.photographs.spoil.studio import Studio


@dataclass(frozen=True)
@checked
class Redraw:
    """SDEdit (Meng et al. 2022, arXiv 2108.01073): noise up to a share of the way, then down under the caption.

    RealAlign's full-image variant is strength 0.8 at guidance scale 3.
    """

    strength: ShareAbove0 = 0.8
    """How far towards noise the photograph goes, over 0 and up to 1."""

    name: ClassVar[str] = "redraw"
    networks: ClassVar[tuple[str, ...]] = ()
    masks: ClassVar[bool] = False

    def spoil(
        self, photos: Sequence[Image.Image], captions: Sequence[str], seeds: Sequence[int], studio: Studio
    ) -> list[Spoiled]:
        streams = studio.streams(captions, seeds)
        latents = studio.walk(studio.encode(photos), captions, streams, self.strength, studio.guidance_scale)
        images = studio.decode(latents)
        return [
            Spoiled(image, None, {"kind": self.name, "seed": seed, "strength": self.strength})
            for image, seed in zip(images, seeds, strict=True)
        ]
