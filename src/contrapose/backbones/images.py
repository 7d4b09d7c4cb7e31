"""The part of a backbone between images and latents."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from contrapose.backbones.networks import Network
from contrapose.backbones.pipeline import LoadedPipeline
from contrapose.errors import UserError
from contrapose.ranges import Pixels, check


class Autoencoder:
    """Encodes images into latents in the denoiser's scale, and decodes them."""

    def __init__(self, pipeline: LoadedPipeline):
        self._pipeline = pipeline

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Latents [b, c, h, w] of images [b, 3, H, W] in -1..1, in the denoiser's scale: (mean - shift) * factor."""
        vae = self._network()
        latents = self._pipeline.family.encode(vae, images.to(vae.device, vae.dtype))
        shift, factor = self._scale_like(latents)
        return (latents - shift) * factor

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Images [b, 3, H, W] in -1..1 of latents."""
        vae = self._network()
        latents = latents.to(vae.device, vae.dtype)
        shift, factor = self._scale_like(latents)
        return self._pipeline.family.decode(vae, latents / factor + shift)

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Shape of one latent at the model's usual size, without the batch."""
        return self._pipeline.latent_shape

    @property
    def unit(self) -> int:
        """Pixels of an image's side for each of a latent's."""
        return self._pipeline.unit

    @property
    def patch(self) -> int:
        """Latent pixels that the network cannot divide further."""
        return self._pipeline.patch

    def shape_for(self, size: str | None) -> tuple[int, ...]:
        """Shape of the latent of an image of this size, written WIDTHxHEIGHT; the usual shape for None.

        Raises `UserError` for a size that is not so written, or that the network cannot make.
        """
        if size is None:
            return self.latent_shape
        sides = re.fullmatch(r"(\d{1,10})x(\d{1,10})", size)
        if not sides:
            raise UserError(f"size {size}: write WIDTHxHEIGHT, such as 832x1216")
        width, height = map(int, sides.groups())
        for side in (width, height):
            check(f"size {size}: side", side, Pixels)
        # the autoencoder divides the sides by its unit, and the network what is left by its patch
        step = self.unit * self.patch
        if width % step or height % step or min(width, height) < step:
            raise UserError(f"size {size}: this model makes images whose sides are multiples of {step}")
        most_patches = self._pipeline.family.most_patches
        if most_patches is not None:
            largest = most_patches(self._pipeline.network.config) * step
            if max(width, height) > largest:
                raise UserError(f"size {size}: this model makes sides of up to {largest}")
        return (self.latent_shape[0], height // self.unit, width // self.unit)

    def rest(self) -> None:
        """Move the autoencoder off the device until it is asked again."""
        self._pipeline.rest("vae")

    def release(self) -> None:
        """Drop the autoencoder from memory; `encode` and `decode` are gone after this."""
        self._pipeline.release("vae")

    def _network(self) -> Network:
        """The autoencoder on its device, in float32 where its numbers leave float16."""
        self._pipeline.place("vae")
        vae: Network = self._pipeline.stock.vae
        if vae.dtype == torch.float16 and vae.config.get("force_upcast"):
            vae.to(torch.float32)
        return vae

    def _scale_like(self, latents: Tensor) -> tuple[Any, Any]:
        """The family's `latent_scale` where and how these latents are."""
        shift, factor = self._pipeline.family.latent_scale(self._pipeline.stock)
        if isinstance(shift, Tensor):
            return shift.to(latents), factor.to(latents)
        return shift, factor
