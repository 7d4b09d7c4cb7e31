"""Text-to-image: the loser is what the model draws from the photograph's caption."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from PIL import Image

from contrapose.photographs.spoil.spoiler import Spoiled

if TYPE_CHECKING:
    from contrapose.photographs.spoil.studio import Studio


@dataclass(frozen=True)
class Generate:
    """An image of the photograph's size from its caption alone, by the stock pipeline.

    RealAlign's "generated" losers, which are SD1.5's at 50 steps.
    """

    name: ClassVar[str] = "generate"
    networks: ClassVar[tuple[str, ...]] = ()
    masks: ClassVar[bool] = False

    def spoil(
        self, photos: Sequence[Image.Image], captions: Sequence[str], seeds: Sequence[int], studio: Studio
    ) -> list[Spoiled]:
        latents = studio.draw(captions, studio.streams(captions, seeds), studio.shape_of(photos[0]))
        images = studio.decode(latents)
        return [
            Spoiled(image, None, {"kind": self.name, "seed": seed}) for image, seed in zip(images, seeds, strict=True)
        ]
