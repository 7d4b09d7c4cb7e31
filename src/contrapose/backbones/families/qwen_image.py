"""Qwen-Image: a transformer on packed latents and text together, Qwen2.5-VL behind a template, flow velocity.

Its autoencoder is one of videos, asked for one frame, with a mean and a deviation for each channel. No prompt is a
space, as its authors sample.

Under guidance the stock pipeline calls the network a second time, and makes each patch of the guided velocity as long
as the conditional one's.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from diffusers import QwenImagePipeline
from torch import Tensor

from contrapose.backbones.family import Family, extrapolated, plain_count
from contrapose.backbones.flow import JOINT_PROJECTIONS, Flow, same_level, timestep
from contrapose.backbones.masked_text import mask_of, trimmed
from contrapose.backbones.networks import Network
from contrapose.core.group import Condition
from contrapose.runs.kohya import Layout

_NO_PROMPT = " "


@cache
def _empty() -> Any:
    """The stock pipeline without its parts, which knows the template that prompts are put into."""
    parts: dict[str, Any] = dict.fromkeys(("scheduler", "vae", "text_encoder", "tokenizer", "transformer"))
    return QwenImagePipeline(**parts)


def _read(pipe: Any, prompts: list[str], device: torch.device, tokens: int) -> Condition:
    text, mask = pipe.encode_prompt(prompts, device, max_sequence_length=tokens)
    if mask is None:  # where no row is padded
        mask = torch.ones(text.shape[:2])
    return trimmed(text, mask)


def _read_none(pipe: Any, negative_prompt: str | None, device: torch.device, tokens: int) -> Condition:
    return _read(pipe, [_NO_PROMPT if negative_prompt is None else negative_prompt], device, tokens)


def _count(tokenizer: Any, prompt: str) -> int:
    """With the end of the template; its beginning is cut off before the network reads."""
    stock = _empty()
    return plain_count(tokenizer, stock.prompt_template_encode.format(prompt)) - stock.prompt_template_encode_start_idx


def _latent_shape(pipe: Any, network: Network) -> tuple[int, ...]:
    side = pipe.default_sample_size
    return (network.config.in_channels // 4, side, side)  # a 2x2 patch's pixels are channels


def _latent_scale(pipe: Any) -> tuple[Any, Any]:
    """latents = (z - mean) / deviation."""
    config = pipe.vae.config
    mean = torch.tensor(config.latents_mean).view(1, -1, 1, 1)
    deviation = torch.tensor(config.latents_std).view(1, -1, 1, 1)
    return mean, 1 / deviation


def _encode(vae: Network, images: Tensor) -> Tensor:
    return vae.encode(images.unsqueeze(2)).latent_dist.mean.squeeze(2)


def _decode(vae: Network, latents: Tensor) -> Tensor:
    return vae.decode(latents.unsqueeze(2)).sample.squeeze(2)


def _denoise(pipe: Any, network: Network, x_t: Tensor, t: Tensor, condition: Condition, fed: float) -> Tensor:
    height, width = x_t.shape[-2:]
    text = condition["text"]
    # none where no row is padded, as the stock pipeline has it: attention is faster without
    is_padded = int(condition["length"].min()) < text.shape[1]
    answer = network(
        _packed(pipe, x_t),
        encoder_hidden_states=text,
        encoder_hidden_states_mask=mask_of(condition, x_t).long() if is_padded else None,
        timestep=timestep(t, x_t) / 1000,
        img_shapes=[[(1, height // 2, width // 2)]] * len(x_t),
        return_dict=False,
    )[0]
    return _unpack(pipe, answer, height, width)


def _combine(pipe: Any, unconditional: Tensor, conditional: Tensor, scale: float) -> Tensor:
    """u + s (c - u), each patch of it as long as that of c."""
    guided = extrapolated(pipe, unconditional, conditional, scale)
    patches = _packed(pipe, guided)
    wanted = _packed(pipe, conditional).norm(dim=-1, keepdim=True)
    return _unpack(pipe, patches * (wanted / patches.norm(dim=-1, keepdim=True)), *guided.shape[-2:])


def _packed(pipe: Any, latents: Tensor) -> Tensor:
    return pipe._pack_latents(latents, *latents.shape)


def _pack(pipe: Any, noise: Tensor, dtype: torch.dtype) -> Tensor:
    return _packed(pipe, noise.to(dtype))


def _unpack(pipe: Any, latents: Tensor, height: int, width: int) -> Tensor:
    unit = int(pipe.vae_scale_factor)
    return pipe._unpack_latents(latents, height * unit, width * unit, unit).squeeze(2)


def _call_arguments(condition: Condition, unconditional: Condition, scale: float, tokens: int) -> dict[str, Any]:
    text = condition["text"]
    arguments = {
        "prompt_embeds": text,
        "prompt_embeds_mask": mask_of(condition, text).long(),
        "true_cfg_scale": scale,
        "max_sequence_length": tokens,
    }
    if scale <= 1:  # where the pipeline warns of a negative prompt that it does not read
        return arguments
    negative = unconditional["text"].expand(len(text), -1, -1)
    return arguments | {
        "negative_prompt_embeds": negative,
        "negative_prompt_embeds_mask": mask_of(unconditional, text).long().expand(len(text), -1),
    }


QWEN_IMAGE = Family(
    name="QwenImage",
    pipelines=(QwenImagePipeline,),
    read=_read,
    read_none=_read_none,
    count=_count,
    text_length=512,
    text_width="joint_attention_dim",
    trims_text=True,
    latent_shape=_latent_shape,
    encode=_encode,
    decode=_decode,
    latent_channels=lambda config: config.z_dim,
    latent_scale=_latent_scale,
    patch=2,
    process=Flow(),
    density="logit-normal",
    denoise=_denoise,
    level_of=same_level,
    lora_targets=JOINT_PROJECTIONS,
    # Narrower networks of such layers are Stable Diffusion 3's, and FLUX has 19 of these blocks.
    kohya=(Layout(r"transformer_blocks\.(19|[2-5]\d)\.", {}, width=3072, stem="diffusion_model."),),
    attention="streams",
    steps=50,
    guidance_scale=4.0,
    unconditional_rows="own",
    combine=_combine,
    rowless=("img_shapes",),
    call_arguments=_call_arguments,
    pack=_pack,
    unpack=_unpack,
)
