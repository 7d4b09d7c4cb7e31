"""The photograph is covered with noise in part and denoised by the model without its caption."""

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
class Noise:
    """Noise up to a share of the way, then down as the model does it when nobody tells it what is there.

    One of RealAlign's explored variants, of which it publishes no strength.
    """

    strength: ShareAbove0 = 0.5
    """How far towards noise the photograph goes, over 0 and up to 1."""

    name: ClassVar[str] = "noise"
    networks: ClassVar[tuple[str, ...]] = ()
    masks: ClassVar[bool] = False

    def spoil(
        self, photos: Sequence[Image.Image], captions: Sequence[str], seeds: Sequence[int], studio: Studio
    ) -> list[Spoiled]:
        streams = studio.streams(captions, seeds)  # the caption says where chance begins, and nothing to the model
        latents = studio.walk(studio.encode(photos), [None] * len(photos), streams, self.strength, scale=1.0)
        images = studio.decode(latents)
        return [
            Spoiled(image, None, {"kind": self.name, "seed": seed, "strength": self.strength})
            for image, seed in zip(images, seeds, strict=True)
        ]
