"""A stock pipeline as it was loaded: what the four parts of a backbone stand on."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from torch import Tensor

from contrapose.backbones.family import Family
from contrapose.backbones.loading import Source
from contrapose.backbones.networks import Network
from contrapose.backbones.settings import Loading
from contrapose.core.group import Condition
from contrapose.runs.fingerprint import weights_fingerprint


class LoadedPipeline:
    """A stock pipeline, its family, where it came from and the device on which its parts compute."""

    def __init__(
        self, family: Family, source: Source, stock: DiffusionPipeline, device: str | torch.device, loading: Loading
    ):
        self.family = family
        self.source = source
        self.stock = stock
        self.device = torch.device(device)
        self.loading = loading
        self.dtype: torch.dtype = self.network.dtype
        """Precision of the denoiser as it was loaded."""
        self.tokens = family.tokens(stock, loading.text_length)
        """Tokens that the largest text encoder reads at most."""

    @property
    def network(self) -> ModelMixin:
        """The denoiser's network."""
        return getattr(self.stock, self.family.denoiser_part)

    @property
    def fingerprint(self) -> str:
        """Which denoiser and autoencoder these are, by the files that they were read from."""
        return weights_fingerprint(self.source.path, (self.family.denoiser_part, "vae"), self.source.variant)

    @property
    def encoder_parts(self) -> tuple[str, ...]:
        """Names of the text encoders, also of those that are not in memory."""
        return tuple(name for name in self.stock.components if name.startswith("text_encoder"))

    @property
    def encoders(self) -> dict[str, Network]:
        """The text encoders in memory by their names."""
        parts = {name: getattr(self.stock, name) for name in self.encoder_parts}
        return {name: encoder for name, encoder in parts.items() if encoder is not None}

    @property
    def tokenizers(self) -> dict[str, Any]:
        """The tokenizers by their names; each is a class of its own in transformers."""
        names = [name for name in self.stock.components if name.startswith("tokenizer")]
        parts = {name: getattr(self.stock, name) for name in names}
        return {name: tokenizer for name, tokenizer in parts.items() if tokenizer is not None}

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Shape of one latent at the model's usual size, without the batch."""
        return self.family.latent_shape(self.stock, self.network)

    @property
    def unit(self) -> int:
        """Pixels of an image's side for each of a latent's."""
        return self.family.unit(self.stock)

    @property
    def patch(self) -> int:
        """Latent pixels that the network cannot divide further."""
        return self.family.patch or getattr(self.network.config, "patch_size", None) or 1

    def place(self, *parts: str) -> None:
        """Move parts to the device when they are first needed; a quantised one is there since it was loaded."""
        for name in parts:
            module = getattr(self.stock, name)
            if module is not None and module.device != self.device and not getattr(module, "is_quantized", False):
                module.to(self.device)

    def rest(self, *parts: str) -> None:
        """Move parts off the device until `place` brings them back."""
        for name in parts:
            getattr(self.stock, name).to("cpu")
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def release(self, *parts: str) -> None:
        """Hold parts no longer; `free_memory` gives their memory back at once."""
        for part in parts:
            setattr(self.stock, part, None)


def cast(condition: Condition, dtype: torch.dtype, device: torch.device | None = None) -> Condition:
    """The same condition in another precision; lengths are whole numbers and stay where they are."""
    result: dict[str, Tensor] = {}
    for name, value in condition.items():
        result[name] = value.to(device, dtype) if value.is_floating_point() else value
    return result
