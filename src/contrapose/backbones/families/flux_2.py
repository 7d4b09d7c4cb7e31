"""FLUX.2 [klein]: a transformer on patches of latents and text together, three layers of Qwen3, flow velocity.

The base models are guided by a second call of each step; distilled ones take no guidance, and their pipeline makes no
second call. The network reads all 512 tokens, padding and all. A latent is a patch of 2x2 of the autoencoder's, in
the scale of its batch norm's statistics.

Training times have the shift of the usual 50 steps, since the stock pipeline's goes by the number of steps too.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from diffusers import Flux2KleinPipeline
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu
from torch import Tensor

from contrapose.backbones.family import Family, extrapolated, plain_count
from contrapose.backbones.flow import JOINT_PROJECTIONS, Flow, same_level, timestep
from contrapose.backbones.networks import Network
from contrapose.core.group import Condition

_STEPS = 50


def _read(pipe: Any, prompts: list[str], device: torch.device, tokens: int) -> Condition:
    text, _ = pipe.encode_prompt(prompts, device, max_sequence_length=tokens)
    return {"text": text}


def _count(tokenizer: Any, prompt: str) -> int:
    """With the beginning of the chat that it is put into; what stands behind it is cut off first."""
    turn = [{"role": "user", "content": prompt}]
    chat = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True, enable_thinking=False)
    return plain_count(tokenizer, chat.rpartition("<|im_end|>")[0])


def _latent_shape(pipe: Any, network: Network) -> tuple[int, ...]:
    side = pipe.default_sample_size // 2
    return (network.config.in_channels, side, side)


def _unit(pipe: Any) -> int:
    return 2 * int(pipe.vae_scale_factor)


def _latent_channels(config: Any) -> int:
    return 4 * int(config.latent_channels)


def _latent_scale(pipe: Any) -> tuple[Any, Any]:
    """latents = (patches of z - mean) / deviation, as the batch norm has seen them."""
    norm = pipe.vae.bn
    deviation = torch.sqrt(norm.running_var + pipe.vae.config.batch_norm_eps)
    return norm.running_mean.view(1, -1, 1, 1), 1 / deviation.view(1, -1, 1, 1)


def _encode(vae: Network, images: Tensor) -> Tensor:
    return _in_patches(vae.encode(images).latent_dist.mean)


def _decode(vae: Network, latents: Tensor) -> Tensor:
    return vae.decode(Flux2KleinPipeline._unpatchify_latents(latents)).sample


def _in_patches(latents: Tensor) -> Tensor:
    return Flux2KleinPipeline._patchify_latents(latents)


def _shift(scheduler: Any, num_tokens: int) -> float:
    """By image size and sampling steps."""
    return math.exp(compute_empirical_mu(num_tokens, _STEPS))


def _denoise(pipe: Any, network: Network, x_t: Tensor, t: Tensor, condition: Condition, fed: float) -> Tensor:
    text = condition["text"]
    # made where they are wanted: the host would wait for the device to copy them
    with x_t.device:
        words = pipe._prepare_text_ids(text)
        places = pipe._prepare_latent_ids(x_t)
    answer = network(
        hidden_states=pipe._pack_latents(x_t),
        timestep=timestep(t, x_t) / 1000,
        guidance=None,
        encoder_hidden_states=text,
        txt_ids=words,
        img_ids=places,
        return_dict=False,
    )[0]
    return answer.transpose(1, 2).reshape(x_t.shape)


def _combine(pipe: Any, unconditional: Tensor, conditional: Tensor, scale: float) -> Tensor:
    """u + s (c - u), or c where the model is distilled."""
    if pipe.config.is_distilled:
        return conditional
    return extrapolated(pipe, unconditional, conditional, scale)


def _call_arguments(condition: Condition, unconditional: Condition, scale: float, tokens: int) -> dict[str, Any]:
    text = condition["text"]
    return {
        "prompt_embeds": text,
        "negative_prompt_embeds": unconditional["text"].expand_as(text),
        "guidance_scale": scale,
    }


def _unpack(pipe: Any, latents: Tensor, height: int, width: int) -> Tensor:
    """The pipeline gives back the autoencoder's own latents."""
    shift, factor = _latent_scale(pipe)
    return (_in_patches(latents) - shift.to(latents)) * factor.to(latents)


FLUX_2_KLEIN = Family(
    name="Flux2Klein",
    pipelines=(Flux2KleinPipeline,),
    read=_read,
    count=_count,
    text_length=512,
    text_width="joint_attention_dim",
    text_layers=3,
    latent_shape=_latent_shape,
    unit=_unit,
    encode=_encode,
    decode=_decode,
    latent_channels=_latent_channels,
    latent_scale=_latent_scale,
    process=Flow(_shift),
    density="logit-normal",
    denoise=_denoise,
    level_of=same_level,
    lora_targets=(*JOINT_PROJECTIONS, "attn.to_qkv_mlp_proj"),
    attention=None,
    steps=_STEPS,
    guidance_scale=4.0,
    unconditional_rows="own",
    unguided=lambda pipe: bool(pipe.config.is_distilled),
    combine=_combine,
    rowless=("img_ids", "txt_ids"),
    call_arguments=_call_arguments,
    unpack=_unpack,
)
