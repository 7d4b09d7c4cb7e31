"""Stable Diffusion 3 and 3.5: a transformer on latents and text together, two CLIPs and T5, flow velocity.

SD3, SD3.5-Medium and -Large, with or without T5; the network reads all tokens, padding and all.

Differs from the authors' DDSPO code: `text_length` is the pipeline's 256, where theirs trains with 77 (and draws pairs
with 256); set it to have theirs.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import StableDiffusion3Pipeline
from torch import Tensor

from contrapose.backbones.family import Family
from contrapose.backbones.flow import Flow, level_of, projected_width, shifted_scale, timestep
from contrapose.backbones.networks import Network
from contrapose.core.group import Condition


def _read(pipe: Any, prompts: list[str], device: torch.device, tokens: int) -> Condition:
    text, _, pooled, _ = pipe.encode_prompt(
        prompts, None, None, device, do_classifier_free_guidance=False, max_sequence_length=tokens
    )
    return {"text": text, "pooled": pooled}


def _text_rows(pipe: Any, tokens: int) -> int:
    """T5's rows stand behind those of the CLIPs."""
    return pipe.text_encoder.config.max_position_embeddings + tokens


def _denoise(pipe: Any, network: Network, x_t: Tensor, t: Tensor, condition: Condition, fed: float) -> Tensor:
    return network(x_t, condition["text"], condition["pooled"], timestep(t, x_t), return_dict=False)[0]


def _call_arguments(condition: Condition, unconditional: Condition, scale: float, tokens: int) -> dict[str, Any]:
    text = condition["text"]
    pooled = condition["pooled"]
    return {
        "prompt_embeds": text,
        "pooled_prompt_embeds": pooled,
        "negative_prompt_embeds": unconditional["text"].expand_as(text),
        "negative_pooled_prompt_embeds": unconditional["pooled"].expand_as(pooled),
        "guidance_scale": scale,
    }


STABLE_DIFFUSION_3 = Family(
    name="StableDiffusion3",
    pipelines=(StableDiffusion3Pipeline,),
    checkpoints=("sd3", "sd35_large", "sd35_medium"),
    unused_parts=("image_encoder", "feature_extractor"),
    optional_parts=("text_encoder_3", "tokenizer_3"),
    read=_read,
    text_length=256,
    text_rows=_text_rows,
    text_width="joint_attention_dim",
    pooled_width=projected_width,
    latent_scale=shifted_scale,
    most_patches=lambda config: config.pos_embed_max_size,
    process=Flow(),
    density="logit-normal",
    denoise=_denoise,
    level_of=level_of,
    lora_targets=(
        "attn.add_k_proj", "attn.add_q_proj", "attn.add_v_proj", "attn.to_add_out",
        "attn.to_k", "attn.to_out.0", "attn.to_q", "attn.to_v",
    ),
    attention="joint",
    steps=28,
    guidance_scale=7.0,
    call_arguments=_call_arguments,
)  # fmt: skip
