"""A model's autoencoder alone: what its latents look like, without any other of its networks in memory."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from contrapose.backbones.families.table import BY_PIPELINE, pipeline_of
from contrapose.backbones.folders import parts_taken
from contrapose.backbones.loading import check_device, find, open_pipeline
from contrapose.backbones.settings import Loading
from contrapose.errors import UserError
from contrapose.pixels import to_pixels
from contrapose.runs.fingerprint import weights_fingerprint

_VAE = "vae"


class Decoder:
    """Makes RGB images of latents [b, c, h, w] in a model's own scale, in float32.

    Raises `UserError` as `load_backbone` does, for the model and for its autoencoder alone.
    """

    def __init__(self, model: str | Path, device: str | torch.device = "cpu", loading: Loading | None = None):
        check_device(device)
        loading = loading or Loading()
        source = find(model, BY_PIPELINE, loading.variant)
        self._family = family = BY_PIPELINE[source.pipeline]
        pipeline = pipeline_of(source)
        further_parts = [part for part in parts_taken(pipeline) if part != _VAE]
        # the stock pipeline around the autoencoder, since a family's scale of latents is told of that
        stock = open_pipeline(source, pipeline, leave_out=further_parts)
        self._vae = getattr(stock, _VAE).to(device)
        self._shift, self._factor = family.latent_scale(stock)
        if self._shift is None:
            raise UserError(f"{model}: shift_factor in vae/config.json is null, which its pipeline cannot add")
        if isinstance(self._shift, Tensor):  # a number a channel
            self._shift = self._shift.to(device)
            self._factor = self._factor.to(device)
        self.model = str(model)
        self.fingerprint = weights_fingerprint(source.path, (family.denoiser_part, _VAE), source.variant)
        """Which denoiser and autoencoder the model has, as a backbone's own fingerprint tells it."""

    @torch.no_grad()
    def __call__(self, latents: Tensor) -> list[Image.Image]:
        """One image for each latent; `UserError` for latents of other channels than the autoencoder's."""
        channels = self._family.latent_channels(self._vae.config)
        if latents.ndim != 4 or latents.shape[1] != channels:
            shape = list(latents.shape[1:])
            raise UserError(f"{self.model}: its autoencoder reads {channels} channels, not latents of shape {shape}")
        latents = latents.to(self._vae.device, self._vae.dtype)
        decoded = self._family.decode(self._vae, latents / self._factor + self._shift)
        return [Image.fromarray(pixels) for pixels in to_pixels(decoded)]
