"""FLUX.1: a transformer on packed latents and text together, CLIP's pooled output and T5, flow velocity.

FLUX.1-dev and -schnell; the network reads all 512 tokens, padding and all. The guidance scale of sampling is the
distilled network's guidance input, one forward a step. Training feeds 3.5 unless told otherwise: the scale at which
pairs are usually drawn.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import FluxPipeline
from torch import Tensor

from contrapose.backbones.family import Family
from contrapose.backbones.flow import JOINT_PROJECTIONS, Flow, projected_width, same_level, shifted_scale, timestep
from contrapose.backbones.networks import Network
from contrapose.core.group import Condition
from contrapose.runs.kohya import Layout


def _read(pipe: Any, prompts: list[str], device: torch.device, tokens: int) -> Condition:
    text, pooled, _ = pipe.encode_prompt(prompts, None, device=device, max_sequence_length=tokens)
    return {"text": text, "pooled": pooled}


def _latent_shape(pipe: Any, network: Network) -> tuple[int, ...]:
    side = pipe.default_sample_size
    return (network.config.in_channels // 4, side, side)  # a 2x2 patch's pixels are channels


def _denoise(pipe: Any, network: Network, x_t: Tensor, t: Tensor, condition: Condition, fed: float) -> Tensor:
    height, width = x_t.shape[-2:]
    text = condition["text"]
    # made where they are wanted: the host would wait for the device to copy them
    with x_t.device:
        places = pipe._prepare_latent_image_ids(len(x_t), height // 2, width // 2, x_t.device, x_t.dtype)
    guidance = torch.full((len(x_t),), fed, device=x_t.device) if _takes_guidance(network.config) else None
    answer = network(
        pipe._pack_latents(x_t, *x_t.shape),
        encoder_hidden_states=text,
        pooled_projections=condition["pooled"],
        # the network multiplies it by 1000
        timestep=timestep(t, x_t) / 1000,
        img_ids=places,
        # words have no place in the image
        txt_ids=x_t.new_zeros(text.shape[1], 3),
        guidance=guidance,
        return_dict=False,
    )[0]
    return _unpack(pipe, answer, height, width)


def _takes_guidance(config: Any) -> bool:
    return bool(config.guidance_embeds)  # FLUX.1-schnell takes none


def _pack(pipe: Any, noise: Tensor, dtype: torch.dtype) -> Tensor:
    return pipe._pack_latents(noise.to(dtype), *noise.shape)


def _unpack(pipe: Any, latents: Tensor, height: int, width: int) -> Tensor:
    unit = int(pipe.vae_scale_factor)
    return pipe._unpack_latents(latents, height * unit, width * unit, unit)


def _call_arguments(condition: Condition, unconditional: Condition, scale: float, tokens: int) -> dict[str, Any]:
    return {
        "prompt_embeds": condition["text"],
        "pooled_prompt_embeds": condition["pooled"],
        "guidance_scale": scale,
    }


FLUX = Family(
    name="Flux",
    pipelines=(FluxPipeline,),
    checkpoints=("flux-dev", "flux-schnell"),
    unused_parts=("image_encoder", "feature_extractor"),
    read=_read,
    text_length=512,
    text_width="joint_attention_dim",
    pooled_width=projected_width,
    latent_shape=_latent_shape,
    latent_scale=shifted_scale,
    patch=2,
    process=Flow(),
    density="logit-normal",
    denoise=_denoise,
    level_of=same_level,
    takes_guidance=_takes_guidance,
    lora_targets=JOINT_PROJECTIONS,
    kohya=(
        Layout(
            r"single_transformer_blocks\.\d+\.(attn\.to_[qkv]\b|proj_|norm\.)",
            {"ss_base_model_version": "flux1", "modelspec.architecture": "flux-1/lora"},
            text_encoders=2,
        ),
    ),
    attention="joint",
    steps=28,
    guidance_scale=3.5,
    unconditional_rows="none",
    unguided=lambda pipe: not _takes_guidance(pipe.transformer.config),
    rowless=("img_ids", "txt_ids"),
    call_arguments=_call_arguments,
    pack=_pack,
    unpack=_unpack,
)
