"""Text-to-image: the loser is what the model draws from the photograph's caption."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from contrapose.photographs.spoil.studio import Spoiled, Studio
from contrapose.seeds import generator


@dataclass(frozen=True)
class Generate:
    """An image of the photograph's size from its caption alone, by the stock pipeline.

    RealAlign's "generated" losers, which are SD1.5's at 50 steps.
    """

    def spoil(
        self, photos: Sequence[Image.Image], captions: Sequence[str], seeds: Sequence[int], studio: Studio
    ) -> list[Spoiled]:
        streams = [generator(caption, seed) for caption, seed in zip(captions, seeds, strict=True)]
        made = studio.draw(captions, streams, studio.shape_of(photos[0]))
        return [
            Spoiled(image, None, {"kind": "generate", "seed": seed})
            for image, seed in zip(studio.decode(made), seeds, strict=True)
        ]
