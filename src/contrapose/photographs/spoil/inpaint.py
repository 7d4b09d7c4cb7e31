"""The subject of the photograph is drawn again from its caption, and what is around it stays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from PIL import Image

from contrapose.core.guidance import FreeScale
from contrapose.photographs.spoil.saliency import FORMULAS, Map, masked
from contrapose.photographs.spoil.spoiler import Spoiled, Why
from contrapose.ranges import Positive, Range, ShareAbove0, Steps, checked

if TYPE_CHECKING:
    from torch import Tensor

    from contrapose.photographs.spoil.studio import Streams, Studio

STEPS = 50  # of RealAlign's inpainting
GUIDANCE_SCALE = 7.5


@dataclass(frozen=True)
@checked
class Inpaint:
    """RealAlign's losers: the salient region is regenerated under the photograph's own caption.

    With m the mask in latent space, the model's view of the data is amended at every step to

        x0 = m x0_model + (1 - m) x0_photograph

    so that what is not masked is at every time the photograph with the noise that it began with. A `model` for
    inpainting, as the paper has, sees the rest of the photograph as an input instead.

    What is not masked is put back from the photograph after decoding: the autoencoder's loss, else in every pixel of
    the loser and in none of the winner's, would tell the two apart everywhere.

    Differs from the authors' code: nothing is put back there, and the mask's edge is soft here, where diffusers'
    pipelines cut U2-Net's map at 0.5 (as a `model` does here too).
    """

    saliency: str = "frequency-tuned"
    """What finds the subject: frequency-tuned, spectral-residual, or the folder of a segmentation model."""
    threshold: Annotated[float, Range(0, 1, low_open=True, high_open=True)] | None = None
    """Salience, in 0..1, from which a place counts as the subject; Otsu's threshold of each photograph when unset."""
    softness: Positive = 0.2
    """Width of the mask's edge, in units of salience; 1 with threshold 0.5 takes the salience itself as the mask."""
    strength: ShareAbove0 = 1.0
    """How far towards noise the subject goes, over 0; 1 begins from noise alone."""
    composite: bool = True
    """Put what is not masked back from the photograph after decoding."""
    model: str | None = None
    """Folder or hub id of a model that inpaints (RealAlign: stable-diffusion-v1-5/stable-diffusion-inpainting); the
    model of the pairs when unset."""
    steps: Steps | None = None
    """Sampling steps; when unset, 50 with a model of its own, as in the paper, else the steps of the run."""
    guidance_scale: FreeScale | None = None
    """Guidance scale; when unset, 7.5 with a model of its own, as in the paper, else the scale of the run."""

    name: ClassVar[str] = "inpaint"
    networks: ClassVar[tuple[str, ...]] = ("model", "saliency")
    masks: ClassVar[bool] = True

    def spoil(
        self, photos: Sequence[Image.Image], captions: Sequence[str], seeds: Sequence[int], studio: Studio
    ) -> list[Spoiled]:
        masks = [masked(salience, self.threshold, self.softness) for salience in self._salience(photos, studio)]
        paint = self._by_the_model if self.model is None else self._by_an_inpainting_model
        images = paint(photos, masks, captions, studio.streams(captions, seeds), studio)
        losers = []
        for image, photo, mask, seed in zip(images, photos, masks, seeds, strict=True):
            share = round(float(mask.mean()), 4)
            loser = mixed(image, photo, mask) if self.composite else image
            why: Why = {"kind": self.name, "seed": seed, "strength": self.strength, "mask_share": share}
            losers.append(Spoiled(loser, _as_image(mask), why))
        return losers

    def _salience(self, photos: Sequence[Image.Image], studio: Studio) -> list[Map]:
        from contrapose.photographs.spoil.segmenter import Segmenter

        if self.saliency in FORMULAS:
            return [FORMULAS[self.saliency](photo) for photo in photos]
        return studio.once(Segmenter, self.saliency, studio.backbone.device)(photos)

    def _by_the_model(
        self, photos: Sequence[Image.Image], masks: list[Map], captions: Sequence[str], streams: Streams, studio: Studio
    ) -> list[Image.Image]:
        """The pairs' own model, whose view of the data is amended at every step."""
        from contrapose.store.masks import in_latents

        kept = studio.encode(photos)
        mask = in_latents(masks, *kept.shape[-2:]).to(kept.device)
        begin = kept * (1 - mask) if self.strength == 1 else kept  # a schedule's last noise is not quite noise alone
        scale = studio.guidance_scale if self.guidance_scale is None else self.guidance_scale

        def amended(x0: Tensor) -> Tensor:
            return mask * x0 + (1 - mask) * kept

        latents = studio.walk(begin, captions, streams, self.strength, scale, self.steps, amended)
        return studio.decode(latents)

    def _by_an_inpainting_model(
        self, photos: Sequence[Image.Image], masks: list[Map], captions: Sequence[str], streams: Streams, studio: Studio
    ) -> list[Image.Image]:
        """A model that was made for it, with the paper's settings where nothing else is asked for."""
        from contrapose.backbones.inpainting import open_inpainting

        inpainting = studio.once(open_inpainting, self.model, studio.backbone.denoiser.dtype, studio.backbone.device)
        steps = STEPS if self.steps is None else self.steps
        scale = GUIDANCE_SCALE if self.guidance_scale is None else self.guidance_scale
        white = [_as_image(mask) for mask in masks]
        return inpainting.paint(photos, white, captions, streams, steps, scale, self.strength)


def mixed(painted: Image.Image, photo: Image.Image, mask: Map) -> Image.Image:
    """An image of what is masked in one and what is not in the other: m painted + (1 - m) photo."""
    share = mask[..., None]
    pixels = share * np.asarray(painted, dtype=np.float64) + (1 - share) * np.asarray(photo, dtype=np.float64)
    return Image.fromarray(pixels.round().astype(np.uint8))


def _as_image(mask: Map) -> Image.Image:
    return Image.fromarray((mask * 255).round().astype(np.uint8))
