"""PixArt-Sigma: a transformer on latents, T5, eps prediction beside a learned sigma that is dropped.

Its stock pipeline has no LoRA loader, so adapters are saved in peft's own form. Captions are read as with the
pipeline's `clean_caption=False`; cleaning needs bs4 and ftfy, and then alters them.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import PixArtSigmaPipeline
from torch import Tensor

from contrapose.backbones.diffusion import Diffusion, level_of
from contrapose.backbones.family import Family
from contrapose.backbones.masked_text import mask_of, pipeline_arguments, trimmed
from contrapose.backbones.networks import Network
from contrapose.core.group import Condition


def _read(pipe: Any, prompts: list[str], device: torch.device, tokens: int) -> Condition:
    text, mask, _, _ = pipe.encode_prompt(prompts, False, device=device, max_sequence_length=tokens)
    return trimmed(text, mask)


def _denoise(pipe: Any, network: Network, x_t: Tensor, t: Tensor, condition: Condition, fed: float) -> Tensor:
    answer = network(
        x_t,
        condition["text"],
        t,
        added_cond_kwargs={"resolution": None, "aspect_ratio": None},
        encoder_attention_mask=mask_of(condition, x_t),
        return_dict=False,
    )[0]
    return answer[:, : x_t.shape[1]]


PIXART_SIGMA = Family(
    name="PixArtSigma",
    pipelines=(PixArtSigmaPipeline,),
    read=_read,
    text_length=300,
    text_width="caption_channels",
    trims_text=True,
    process=Diffusion(),
    denoise=_denoise,
    level_of=level_of,
    steps=20,
    guidance_scale=4.5,
    call_arguments=pipeline_arguments,
)
