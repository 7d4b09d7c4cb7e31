"""PixArt-Sigma: a transformer on latents, T5, eps prediction beside a learned sigma that is dropped."""

from __future__ import annotations

from typing import Any

from diffusers import PixArtSigmaPipeline
from torch import Tensor, nn

from contrapose.backbones.diffusion import DiffusionBackbone
from contrapose.backbones.masked_text import mask_of, pipeline_arguments, trimmed
from contrapose.core.group import Condition


class PixArtSigma(DiffusionBackbone):
    """PixArt-Sigma; its stock pipeline has no LoRA loader, so adapters are saved in peft's own form.

    Captions are read as with the pipeline's `clean_caption=False`; cleaning needs bs4 and ftfy, and then alters them.
    """

    pipelines = (PixArtSigmaPipeline,)
    steps = 20
    guidance_scale = 4.5
    text_length = 300
    trims_text = True

    def read(self, prompts: list[str]) -> Condition:
        text, mask, _, _ = self.pipe.encode_prompt(prompts, False, device=self.device, max_sequence_length=self.tokens)
        return trimmed(text, mask)

    def denoise(self, denoiser: nn.Module, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        answer = denoiser(
            x_t,
            condition["text"],
            t,
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
            encoder_attention_mask=mask_of(condition, x_t),
            return_dict=False,
        )[0]
        return answer[:, : x_t.shape[1]]

    def call_arguments(self, condition: Condition, unconditional: Condition, scale: float) -> dict[str, Any]:
        return pipeline_arguments(condition, unconditional, self.tokens, scale)
