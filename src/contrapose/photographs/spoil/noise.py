"""The photograph is covered with noise in part and denoised by the model without its caption."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from contrapose.photographs.spoil.studio import Spoiled, Studio
from contrapose.ranges import ShareAbove0, checked
from contrapose.seeds import generator


@dataclass(frozen=True)
@checked
class Noise:
    """Noise up to a share of the way, then down as the model does it when nobody tells it what is there.

    One of RealAlign's explored variants, of which it publishes no strength.
    """

    strength: ShareAbove0 = 0.5
    """How far towards noise the photograph goes, over 0 and up to 1."""

    def spoil(
        self, photos: Sequence[Image.Image], captions: Sequence[str], seeds: Sequence[int], studio: Studio
    ) -> list[Spoiled]:
        streams = [generator(caption, seed) for caption, seed in zip(captions, seeds, strict=True)]
        made = studio.walk(studio.encode(photos), [None] * len(photos), streams, self.strength, scale=1.0)
        return [
            Spoiled(image, None, {"kind": "noise", "seed": seed, "strength": self.strength})
            for image, seed in zip(studio.decode(made), seeds, strict=True)
        ]
