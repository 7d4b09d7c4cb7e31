"""Stable Diffusion 1.x, 2.x and XL: a UNet on latents, CLIP text encoders, eps or v prediction.

SD 1.x and 2.x read every row of the last hidden states of one CLIP, padding and all. SDXL reads two CLIPs side by side,
the second one's pooled output, and ids of size and crop: the size of the latents at hand and no crop, which is what a
user asks for when sampling. Original sizes of photographs do not enter: they would tell winners from losers.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor

from contrapose.backbones.diffusion import Diffusion, level_of
from contrapose.backbones.family import Family, plain_scale
from contrapose.backbones.networks import Network
from contrapose.core.group import Condition
from contrapose.runs.kohya import Layout

_FEW_TOKENS = 256  # below, PyTorch's fused attention on the CPU takes twice as long as the plain one, mostly backward
_TEXT_KEYS = r".*attn2\.to_k"  # layers that are as wide as the text


def _prepare(pipe: Any, network: Network, device: torch.device) -> None:
    size = network.config.sample_size
    num_tokens = size**2 if isinstance(size, int) else math.prod(size)
    if device.type == "cpu" and num_tokens <= _FEW_TOKENS:
        network.set_attn_processor(AttnProcessor())


# Stable Diffusion 1.x and 2.x


def _read(pipe: Any, prompts: list[str], device: torch.device, tokens: int) -> Condition:
    return {"text": pipe.encode_prompt(prompts, device, 1, False)[0]}


def _denoise(pipe: Any, network: Network, x_t: Tensor, t: Tensor, condition: Condition, fed: float) -> Tensor:
    return network(x_t, t, encoder_hidden_states=condition["text"], return_dict=False)[0]


def _call_arguments(condition: Condition, unconditional: Condition, scale: float, tokens: int) -> dict[str, Any]:
    text = condition["text"]
    return {
        "prompt_embeds": text,
        "negative_prompt_embeds": unconditional["text"].expand_as(text),
        "guidance_scale": scale,
    }


STABLE_DIFFUSION = Family(
    name="StableDiffusion",
    pipelines=(StableDiffusionPipeline,),
    checkpoints=("v1", "v2"),
    denoiser_part="unet",
    unused_parts=("safety_checker", "feature_extractor", "image_encoder"),
    prepare=_prepare,
    read=_read,
    text_width="cross_attention_dim",
    process=Diffusion(),
    denoise=_denoise,
    level_of=level_of,
    kohya=(
        Layout(
            _TEXT_KEYS,
            {"ss_base_model_version": "sd_v1", "ss_v2": "False", "modelspec.architecture": "stable-diffusion-v1/lora"},
            width=768,
        ),
        # 512 or 768 pixels: its adapters do not tell
        Layout(_TEXT_KEYS, {"ss_base_model_version": "sd_v2", "ss_v2": "True"}, width=1024),
    ),
    call_arguments=_call_arguments,
)


# Stable Diffusion XL


def _xl_scale(pipe: Any) -> tuple[Any, Any]:
    """z = latents * std / factor + mean, where the autoencoder has both, as Playground v2.5's; one a channel."""
    config = pipe.vae.config
    if config.get("latents_mean") is None or config.get("latents_std") is None:
        return plain_scale(pipe)
    mean, deviation = (torch.tensor(config[name]).view(1, -1, 1, 1) for name in ("latents_mean", "latents_std"))
    return mean, config.scaling_factor / deviation


def _xl_read(pipe: Any, prompts: list[str], device: torch.device, tokens: int) -> Condition:
    text, _, pooled, _ = pipe.encode_prompt(prompts, device=device, do_classifier_free_guidance=False)
    return {"text": text, "pooled": pooled}


def _xl_read_none(pipe: Any, negative_prompt: str | None, device: torch.device, tokens: int) -> Condition:
    """No prompt is zeros where the model was trained so (`force_zeros_for_empty_prompt`); an empty text is read."""
    condition = _xl_read(pipe, [negative_prompt or ""], device, tokens)
    if negative_prompt is not None or not pipe.config.force_zeros_for_empty_prompt:
        return condition
    return {name: torch.zeros_like(value) for name, value in condition.items()}


def _xl_denoise(pipe: Any, network: Network, x_t: Tensor, t: Tensor, condition: Condition, fed: float) -> Tensor:
    height, width = (side * int(pipe.vae_scale_factor) for side in x_t.shape[-2:])
    # original size, crop and size
    ids = x_t.new_zeros(len(x_t), 6)
    ids[:, 0::4] = height
    ids[:, 1::4] = width
    added = {"text_embeds": condition["pooled"], "time_ids": ids}
    text = condition["text"]
    return network(x_t, t, encoder_hidden_states=text, added_cond_kwargs=added, return_dict=False)[0]


def _xl_call_arguments(condition: Condition, unconditional: Condition, scale: float, tokens: int) -> dict[str, Any]:
    pooled = condition["pooled"]
    return _call_arguments(condition, unconditional, scale, tokens) | {
        "pooled_prompt_embeds": pooled,
        "negative_pooled_prompt_embeds": unconditional["pooled"].expand_as(pooled),
    }


STABLE_DIFFUSION_XL = Family(
    name="StableDiffusionXL",
    pipelines=(StableDiffusionXLPipeline,),
    checkpoints=("xl_base",),
    denoiser_part="unet",
    unused_parts=("feature_extractor", "image_encoder"),
    prepare=_prepare,
    read=_xl_read,
    read_none=_xl_read_none,
    text_width="cross_attention_dim",
    pooled_width=lambda pipe, config: pipe.text_encoder_2.config.projection_dim,
    latent_scale=_xl_scale,
    process=Diffusion(),
    denoise=_xl_denoise,
    level_of=level_of,
    kohya=(
        Layout(
            _TEXT_KEYS,
            {
                "ss_base_model_version": "sdxl_base_v1-0",
                "ss_v2": "False",
                "modelspec.architecture": "stable-diffusion-xl-v1-base/lora",
            },
            width=2048,
            text_encoders=2,
        ),
    ),
    steps=30,
    call_arguments=_xl_call_arguments,
)
