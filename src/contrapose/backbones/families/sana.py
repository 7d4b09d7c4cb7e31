"""SANA: a linear-attention transformer on strongly compressed latents, Gemma-2 with an instruction, flow velocity.

Prompts are read behind the stock pipeline's complex human instruction, none and negative ones without it.

Differs from the authors' DDSPO code: padding is cut off, which the network masks anyhow; training times have the
scheduler's shift, where theirs come out unshifted (`time_shift: none`); the instruction ends with a space, as the
stock pipeline's does, so that training reads what sampling reads.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from diffusers import SanaPipeline
from torch import Tensor

from contrapose.backbones.family import Family, plain_count
from contrapose.backbones.flow import Flow, shifted_scale, timestep
from contrapose.backbones.masked_text import mask_of, pipeline_arguments, trimmed
from contrapose.backbones.networks import Network
from contrapose.core.group import Condition

INSTRUCTION = inspect.signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default


def _read(pipe: Any, prompts: list[str], device: torch.device, tokens: int) -> Condition:
    return _read_behind(INSTRUCTION, pipe, prompts, device, tokens)


def _read_none(pipe: Any, negative_prompt: str | None, device: torch.device, tokens: int) -> Condition:
    return _read_behind(None, pipe, [negative_prompt or ""], device, tokens)


def _read_behind(
    instruction: list[str] | None, pipe: Any, prompts: list[str], device: torch.device, tokens: int
) -> Condition:
    text, mask, _, _ = pipe.encode_prompt(
        prompts, False, device=device, max_sequence_length=tokens, complex_human_instruction=instruction
    )
    return trimmed(text, mask)


def _count(tokenizer: Any, prompt: str) -> int:
    """The instruction's tokens are beside the limit, which keeps two for it."""
    instruction = "\n".join(INSTRUCTION)
    return plain_count(tokenizer, instruction + prompt) - plain_count(tokenizer, instruction) + 2


def _denoise(pipe: Any, network: Network, x_t: Tensor, t: Tensor, condition: Condition, fed: float) -> Tensor:
    time = timestep(t, x_t) * network.config.timestep_scale
    mask = mask_of(condition, x_t)
    return network(x_t, condition["text"], time, encoder_attention_mask=mask, return_dict=False)[0]


SANA = Family(
    name="Sana",
    pipelines=(SanaPipeline,),
    read=_read,
    read_none=_read_none,
    count=_count,
    text_length=300,
    text_width="caption_channels",
    trims_text=True,
    latent_scale=shifted_scale,
    process=Flow(),
    denoise=_denoise,
    level_of=lambda time, config: time / (1000 * config.timestep_scale),
    lora_targets=("to_q", "to_k", "to_v"),
    steps=20,
    guidance_scale=4.5,
    call_arguments=pipeline_arguments,
)
