"""Stable Diffusion 1.x and 2.x: a UNet on latents, one CLIP text encoder, eps or v prediction."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path as FilePath
from typing import Any

import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor

from contrapose.backbones.loading import FULL_FOLDER, apply_adapter, load_pipeline, model_fingerprint
from contrapose.backbones.policies import FullPolicies, LoraPolicies
from contrapose.core.group import Condition
from contrapose.core.path import DiffusionPath, Space
from contrapose.files import replacing

_FEW_TOKENS = 256  # below, PyTorch's fused attention on the CPU takes twice as long as the plain one, mostly backward
_SPACES: dict[str, Space] = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}


class StableDiffusion:
    """The Backbone contract over a stock `StableDiffusionPipeline`."""

    def __init__(
        self,
        model: str | FilePath,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
        adapter: FilePath | None = None,
    ):
        self.model = model
        pipe = self.pipe = load_pipeline(model)
        self.fingerprint = model_fingerprint(pipe)  # of the weights as they are stored, whatever they are cast to next
        if adapter is not None:
            apply_adapter(pipe, adapter)
        pipe.to(device, dtype)
        self.device, self.dtype = pipe.unet.device, pipe.unet.dtype
        if self.device.type == "cpu" and pipe.unet.config.sample_size**2 <= _FEW_TOKENS:
            pipe.unet.set_attn_processor(AttnProcessor())
        scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
        self.path = DiffusionPath(scheduler.alphas_cumprod.to(self.device))
        self.space: Space = _SPACES[scheduler.config.prediction_type]
        self.policies: LoraPolicies | FullPolicies

    @property
    def latent_shape(self) -> tuple[int, ...]:
        side = self.pipe.unet.config.sample_size
        return (self.pipe.unet.config.in_channels, side, side)

    def with_lora(self, rank: int, alpha: float) -> StableDiffusion:
        """Train low-rank adapters on the attention projections; the base stays as loaded."""
        self.policies = LoraPolicies(self.pipe.unet, rank, alpha)
        return self

    def with_full(self, frozen_dtype: torch.dtype, needs_reference: bool = True) -> StableDiffusion:
        """Train the whole UNet beside a frozen copy (none when no reference is asked for)."""
        self.policies = FullPolicies(self.pipe.unet, frozen_dtype, needs_reference)
        return self

    @torch.no_grad()
    def embed(self, prompts: Sequence[str]) -> Condition:
        embeddings, _ = self.pipe.encode_prompt(list(prompts), self.device, 1, False)
        return {"text": embeddings}

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        vae = self.pipe.vae
        return vae.encode(images.to(vae.device, vae.dtype)).latent_dist.mean * vae.config.scaling_factor

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        vae = self.pipe.vae
        return vae.decode(latents.to(vae.device, vae.dtype) / vae.config.scaling_factor).sample

    def predict(self, policy: str, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        denoiser = self.policies.denoiser(policy)
        dtype = denoiser.dtype
        return denoiser(x_t.to(dtype), t, encoder_hidden_states=condition["text"].to(dtype), return_dict=False)[0]

    def call_arguments(self, condition: Condition, unconditional: Condition) -> dict[str, Any]:
        text = condition["text"].to(self.device, self.dtype)
        return {"prompt_embeds": text, "negative_prompt_embeds": unconditional["text"].to(text).expand_as(text)}

    def save(self, folder: FilePath) -> None:
        """`pytorch_lora_weights.safetensors` with its rank and alpha, or a whole pipeline folder `model/`."""
        if isinstance(self.policies, LoraPolicies):
            StableDiffusionPipeline.save_lora_weights(
                folder,
                unet_lora_layers=self.policies.state(),
                unet_lora_adapter_metadata=self.policies.config.to_dict(),
            )
            return
        whole = load_pipeline(self.model)  # text encoder and autoencoder were dropped for training
        whole.unet = self.policies.trainee
        with replacing(folder / FULL_FOLDER) as aside:
            whole.save_pretrained(aside)

    def release_encoders(self) -> None:
        self.pipe.text_encoder = self.pipe.vae = None
