"""FLUX.1: a transformer on packed latents and text together, CLIP's pooled output and T5, flow velocity."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import FluxPipeline
from torch import Tensor, nn

from contrapose.backbones.flow import FlowBackbone
from contrapose.core.group import Condition


class Flux(FlowBackbone):
    """FLUX.1-dev and -schnell; the network reads all 512 tokens, padding and all.

    The guidance scale of sampling is the distilled network's guidance input, one forward a step. Training feeds 3.5
    unless told otherwise (`feed_guidance`): the scale at which pairs are usually drawn.
    """

    pipelines = (FluxPipeline,)
    checkpoints = ("flux-dev", "flux-schnell")
    unused_parts = ("image_encoder", "feature_extractor")
    lora_targets = (
        "attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0",
        "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out",
    )  # fmt: skip
    steps = 28
    guidance_scale = 3.5
    text_length = 512
    density = "logit-normal"
    unconditional_rows = "none"
    _fed = guidance_scale

    @property
    def latent_shape(self) -> tuple[int, ...]:
        side = self.pipe.default_sample_size
        return (self.network.config.in_channels // 4, side, side)

    @property
    def patch(self) -> int:
        return 2

    def read(self, prompts: list[str]) -> Condition:
        text, pooled, _ = self.pipe.encode_prompt(prompts, None, device=self.device, max_sequence_length=self.tokens)
        return {"text": text, "pooled": pooled}

    def denoise(self, denoiser: nn.Module, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        height, width = x_t.shape[-2:]
        text = condition["text"]
        answer = denoiser(
            self.pipe._pack_latents(x_t, *x_t.shape),
            encoder_hidden_states=text,
            pooled_projections=condition["pooled"],
            timestep=self.timestep(t, x_t) / 1000,
            img_ids=self.pipe._prepare_latent_image_ids(len(x_t), height // 2, width // 2, x_t.device, x_t.dtype),
            txt_ids=x_t.new_zeros(text.shape[1], 3),
            guidance=self._guidance(len(x_t), x_t.device),
            return_dict=False,
        )[0]
        return self.unpack(answer, height, width)

    def feed_guidance(self, scale: float) -> None:
        if not self.network.config.guidance_embeds:  # FLUX.1-schnell
            super().feed_guidance(scale)
        self._fed = scale

    def guided(self, x_t: Tensor, t: Tensor, condition: Condition, unconditional: Condition, scale: float) -> Tensor:
        """One call that is fed the scale, as the stock pipeline does; -schnell takes none."""
        fed, self._fed = self._fed, scale
        try:
            return super().guided(x_t, t, condition, unconditional, 1.0)
        finally:
            self._fed = fed

    def _guidance(self, rows: int, device: torch.device) -> Tensor | None:
        return torch.full((rows,), self._fed, device=device) if self.network.config.guidance_embeds else None

    def pack(self, noise: Tensor) -> Tensor:
        return self.pipe._pack_latents(noise.to(self.dtype), *noise.shape)

    def unpack(self, latents: Tensor, height: int, width: int) -> Tensor:
        factor = self.unit
        return self.pipe._unpack_latents(latents, height * factor, width * factor, factor)

    def call_arguments(self, condition: Condition, unconditional: Condition, scale: float) -> dict[str, Any]:
        return {
            "prompt_embeds": condition["text"],
            "pooled_prompt_embeds": condition["pooled"],
            "guidance_scale": scale,
        }

    @classmethod
    def level_of(cls, time: float, config: Any) -> float:
        return time
