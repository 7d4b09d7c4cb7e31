"""Stable Diffusion 3 and 3.5: a transformer on latents and text together, two CLIPs and T5, flow velocity."""

from __future__ import annotations

from typing import Any

from diffusers import StableDiffusion3Pipeline
from torch import Tensor, nn

from contrapose.backbones.flow import FlowBackbone
from contrapose.core.group import Condition
from contrapose.errors import UserError


class StableDiffusion3(FlowBackbone):
    """SD3, SD3.5-Medium and -Large, with or without T5; the network reads all tokens, padding and all.

    Differs from the authors' DDSPO code: `text_length` is the pipeline's 256, where theirs trains with 77 (and
    draws pairs with 256); set it to have theirs.
    """

    pipelines = (StableDiffusion3Pipeline,)
    checkpoints = ("sd3", "sd35_large", "sd35_medium")
    unused_parts = ("image_encoder", "feature_extractor")
    optional_parts = ("text_encoder_3", "tokenizer_3")
    lora_targets = (
        "attn.add_k_proj", "attn.add_q_proj", "attn.add_v_proj", "attn.to_add_out",
        "attn.to_k", "attn.to_out.0", "attn.to_q", "attn.to_v",
    )  # fmt: skip
    steps = 28
    guidance_scale = 7.0
    text_length = 256
    density = "logit-normal"

    def shape_for(self, size: str | None) -> tuple[int, ...]:
        """As everywhere; the network has positions for so many patches a side and no more."""
        shape = super().shape_for(size)
        largest = self.network.config.pos_embed_max_size * self.patch
        if max(shape[1:]) > largest:
            raise UserError(f"size {size}: this model makes sides of up to {largest * self.unit}")
        return shape

    @property
    def text_rows(self) -> int:
        """T5's rows stand behind those of the CLIPs."""
        return self.pipe.text_encoder.config.max_position_embeddings + self.tokens

    def read(self, prompts: list[str]) -> Condition:
        text, _, pooled, _ = self.pipe.encode_prompt(
            prompts, None, None, self.device, do_classifier_free_guidance=False, max_sequence_length=self.tokens
        )
        return {"text": text, "pooled": pooled}

    def denoise(self, denoiser: nn.Module, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        text, pooled = condition["text"], condition["pooled"]
        return denoiser(x_t, text, pooled, self.timestep(t, x_t), return_dict=False)[0]

    def call_arguments(self, condition: Condition, unconditional: Condition, scale: float) -> dict[str, Any]:
        text, pooled = condition["text"], condition["pooled"]
        return {
            "prompt_embeds": text,
            "pooled_prompt_embeds": pooled,
            "negative_prompt_embeds": unconditional["text"].expand_as(text),
            "negative_pooled_prompt_embeds": unconditional["pooled"].expand_as(pooled),
            "guidance_scale": scale,
        }
