"""Image-to-image: the photograph is covered with noise in part and drawn again under its caption."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from contrapose.photographs.spoil.studio import Spoiled, Studio
from contrapose.ranges import ShareAbove0, checked
from contrapose.seeds import generator


@dataclass(frozen=True)
@checked
class Redraw:
    """SDEdit (Meng et al. 2022, arXiv 2108.01073): noise up to a share of the way, then down under the caption.

    RealAlign's full-image variant is strength 0.8 at guidance scale 3.
    """

    strength: ShareAbove0 = 0.8
    """How far towards noise the photograph goes, over 0 and up to 1."""

    def spoil(
        self, photos: Sequence[Image.Image], captions: Sequence[str], seeds: Sequence[int], studio: Studio
    ) -> list[Spoiled]:
        streams = [generator(caption, seed) for caption, seed in zip(captions, seeds, strict=True)]
        made = studio.walk(studio.encode(photos), captions, streams, self.strength, studio.guidance_scale)
        return [
            Spoiled(image, None, {"kind": "redraw", "seed": seed, "strength": self.strength})
            for image, seed in zip(studio.decode(made), seeds, strict=True)
        ]
