"""Stable Diffusion 1.x, 2.x and XL: a UNet on latents, CLIP text encoders, eps or v prediction."""

from __future__ import annotations

import math
from typing import Any

import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn

from contrapose.backbones.diffusion import DiffusionBackbone
from contrapose.core.group import Condition

_FEW_TOKENS = 256  # below, PyTorch's fused attention on the CPU takes twice as long as the plain one, mostly backward


class StableDiffusion(DiffusionBackbone):
    """SD 1.x and 2.x: one CLIP, of whose last hidden states every row is read, padding and all."""

    pipelines = (StableDiffusionPipeline,)
    checkpoints = ("v1", "v2")
    denoiser_part = "unet"
    unused_parts = ("safety_checker", "feature_extractor", "image_encoder")

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        if self.device.type == "cpu" and math.prod(self.latent_shape[1:]) <= _FEW_TOKENS:
            self.network.set_attn_processor(AttnProcessor())

    def read(self, prompts: list[str]) -> Condition:
        return {"text": self.pipe.encode_prompt(prompts, self.device, 1, False)[0]}

    def denoise(self, denoiser: nn.Module, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return denoiser(x_t, t, encoder_hidden_states=condition["text"], return_dict=False)[0]

    def call_arguments(self, condition: Condition, unconditional: Condition, scale: float) -> dict[str, Any]:
        text = condition["text"]
        return {
            "prompt_embeds": text,
            "negative_prompt_embeds": unconditional["text"].expand_as(text),
            "guidance_scale": scale,
        }


class StableDiffusionXL(StableDiffusion):
    """SDXL: two CLIPs side by side, the second one's pooled output, and ids of size and crop.

    The ids say the size of the latents at hand and no crop, which is what a user asks for when sampling. Original sizes
    of photographs do not enter: they would tell winners from losers.
    """

    pipelines = (StableDiffusionXLPipeline,)
    checkpoints = ("xl_base",)
    unused_parts = ("feature_extractor", "image_encoder")
    steps = 30

    @property
    def latent_scale(self) -> tuple[Any, Any]:
        """z = latents * std / factor + mean, where the autoencoder has both, as Playground v2.5's; one a channel."""
        config = self.pipe.vae.config
        if config.get("latents_mean") is None or config.get("latents_std") is None:
            return super().latent_scale
        mean, deviation = (torch.tensor(config[name]).view(1, -1, 1, 1) for name in ("latents_mean", "latents_std"))
        return mean, config.scaling_factor / deviation

    def read(self, prompts: list[str]) -> Condition:
        text, _, pooled, _ = self.pipe.encode_prompt(prompts, device=self.device, do_classifier_free_guidance=False)
        return {"text": text, "pooled": pooled}

    def read_unconditional(self, negative_prompt: str | None = None) -> Condition:
        """No prompt is zeros where the model was trained so (`force_zeros_for_empty_prompt`); an empty text is read."""
        read = self.read([negative_prompt or ""])
        if negative_prompt is not None or not self.pipe.config.force_zeros_for_empty_prompt:
            return read
        return {name: torch.zeros_like(value) for name, value in read.items()}

    def denoise(self, denoiser: nn.Module, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        height, width = (side * self.unit for side in x_t.shape[-2:])
        ids = x_t.new_tensor([height, width, 0, 0, height, width]).expand(len(x_t), -1)
        added = {"text_embeds": condition["pooled"], "time_ids": ids}
        text = condition["text"]
        return denoiser(x_t, t, encoder_hidden_states=text, added_cond_kwargs=added, return_dict=False)[0]

    def call_arguments(self, condition: Condition, unconditional: Condition, scale: float) -> dict[str, Any]:
        pooled = condition["pooled"]
        return super().call_arguments(condition, unconditional, scale) | {
            "pooled_prompt_embeds": pooled,
            "negative_pooled_prompt_embeds": unconditional["pooled"].expand_as(pooled),
        }
