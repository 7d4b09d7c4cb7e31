"""SANA: a linear-attention transformer on strongly compressed latents, Gemma-2 with an instruction, flow velocity."""

from __future__ import annotations

import inspect
from typing import Any

from diffusers import SanaPipeline
from torch import Tensor, nn

from contrapose.backbones.flow import FlowBackbone
from contrapose.backbones.masked_text import mask_of, pipeline_arguments, trimmed
from contrapose.core.group import Condition

INSTRUCTION = inspect.signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default


class Sana(FlowBackbone):
    """SANA; prompts are read behind the stock pipeline's complex human instruction, none and negative ones without it.

    Differs from the authors' DDSPO code: padding is cut off, which the network masks anyhow; training times have the
    scheduler's shift, where theirs come out unshifted (`time_shift: none`); the instruction ends with a space, as the
    stock pipeline's does, so that training reads what sampling reads.
    """

    pipelines = (SanaPipeline,)
    lora_targets = ("to_q", "to_k", "to_v")
    steps = 20
    guidance_scale = 4.5
    text_length = 300
    trims_text = True

    def read(self, prompts: list[str]) -> Condition:
        return self._read(prompts, INSTRUCTION)

    def read_unconditional(self, negative_prompt: str | None = None) -> Condition:
        return self._read([negative_prompt or ""], None)

    def _read(self, prompts: list[str], instruction: list[str] | None) -> Condition:
        text, mask, _, _ = self.pipe.encode_prompt(
            prompts, False, device=self.device, max_sequence_length=self.tokens, complex_human_instruction=instruction
        )
        return trimmed(text, mask)

    @classmethod
    def tokens_of(cls, tokenizer: Any, prompt: str) -> int:
        """The instruction's own tokens are beside the limit, which keeps two of its own."""
        instruction = "\n".join(INSTRUCTION)
        return super().tokens_of(tokenizer, instruction + prompt) - super().tokens_of(tokenizer, instruction) + 2

    def denoise(self, denoiser: nn.Module, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        time = self.timestep(t, x_t) * denoiser.config.timestep_scale
        mask = mask_of(condition, x_t)
        return denoiser(x_t, condition["text"], time, encoder_attention_mask=mask, return_dict=False)[0]

    def call_arguments(self, condition: Condition, unconditional: Condition, scale: float) -> dict[str, Any]:
        return pipeline_arguments(condition, unconditional, self.tokens, scale)

    @classmethod
    def level_of(cls, time: float, config: Any) -> float:
        return time / (1000 * config.timestep_scale)
