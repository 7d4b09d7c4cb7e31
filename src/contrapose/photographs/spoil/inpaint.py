"""The subject of the photograph is drawn again from its caption, and what is around it stays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from contrapose.backbones.inpainting import open_inpainting
from contrapose.core.guidance import FreeScale
from contrapose.photographs.spoil.saliency import FORMULAS, Map, masked
from contrapose.photographs.spoil.segmenter import Segmenter
from contrapose.photographs.spoil.studio import Spoiled, Streams, Studio
from contrapose.ranges import Positive, Range, ShareAbove0, Steps, checked
from contrapose.seeds import generator

STEPS, GUIDANCE_SCALE = 50, 7.5  # of RealAlign's inpainting


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
    """Sampling steps; when unset, 50 with a `model` as in the paper, else those of the run."""
    guidance_scale: FreeScale | None = None
    """Guidance scale; when unset, 7.5 with a `model` as in the paper, else that of the run."""

    def spoil(
        self, photos: Sequence[Image.Image], captions: Sequence[str], seeds: Sequence[int], studio: Studio
    ) -> list[Spoiled]:
        masks = [masked(found, self.threshold, self.softness) for found in self._salience(photos, studio)]
        streams = [generator(caption, seed) for caption, seed in zip(captions, seeds, strict=True)]
        paint = self._by_the_model if self.model is None else self._by_an_inpainting_model
        made = paint(photos, masks, captions, streams, studio)
        if self.composite:
            made = [_composed(image, photo, mask) for image, photo, mask in zip(made, photos, masks, strict=True)]
        return [
            Spoiled(image, _as_image(mask), self._why(seed, mask))
            for image, mask, seed in zip(made, masks, seeds, strict=True)
        ]

    def _salience(self, photos: Sequence[Image.Image], studio: Studio) -> list[Map]:
        if self.saliency in FORMULAS:
            return [FORMULAS[self.saliency](photo) for photo in photos]
        return studio.once(Segmenter, self.saliency, studio.backbone.device)(photos)

    def _by_the_model(
        self, photos: Sequence[Image.Image], masks: list[Map], captions: Sequence[str], streams: Streams, studio: Studio
    ) -> list[Image.Image]:
        known = studio.encode(photos)
        mask = _in_latents(masks, known)
        begin = known * (1 - mask) if self.strength == 1 else known  # a schedule's last noise is not quite noise alone
        scale = studio.guidance_scale if self.guidance_scale is None else self.guidance_scale
        made = studio.walk(
            begin, captions, streams, self.strength, scale, self.steps, lambda x0: mask * x0 + (1 - mask) * known
        )
        return studio.decode(made)

    def _by_an_inpainting_model(
        self, photos: Sequence[Image.Image], masks: list[Map], captions: Sequence[str], streams: Streams, studio: Studio
    ) -> list[Image.Image]:
        inpainting = studio.once(open_inpainting, self.model, studio.backbone.dtype, studio.backbone.device)
        steps = STEPS if self.steps is None else self.steps
        scale = GUIDANCE_SCALE if self.guidance_scale is None else self.guidance_scale
        return inpainting.paint(photos, [_as_image(m) for m in masks], captions, streams, steps, scale, self.strength)

    def _why(self, seed: int, mask: Map) -> dict[str, str | int | float]:
        share = round(float(mask.mean()), 4)
        return {"kind": "inpaint", "seed": seed, "strength": self.strength, "mask_share": share}


def _in_latents(masks: list[Map], latents: Tensor) -> Tensor:
    """The mean of each mask over a latent's pixels, [b, 1, h, w]."""
    stacked = torch.from_numpy(np.stack(masks)).float()[:, None]
    return nn.functional.adaptive_avg_pool2d(stacked, latents.shape[-2:]).to(latents.device)


def _composed(made: Image.Image, photo: Image.Image, mask: Map) -> Image.Image:
    """m made + (1 - m) photo."""
    share = mask[..., None]
    pixels = share * np.asarray(made, dtype=np.float64) + (1 - share) * np.asarray(photo, dtype=np.float64)
    return Image.fromarray(pixels.round().astype(np.uint8))


def _as_image(mask: Map) -> Image.Image:
    return Image.fromarray((mask * 255).round().astype(np.uint8))
