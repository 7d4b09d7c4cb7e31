"""Z-Image: a transformer on image and text as one sequence, Qwen3, flow velocity counted from noise to data."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import ZImagePipeline
from torch import Tensor, nn

from contrapose.backbones.flow import FlowBackbone
from contrapose.backbones.masked_text import trimmed
from contrapose.core.group import Condition

SIDE = 1024  # pixels of the usual image; the pipeline's own default, which no configuration holds


class ZImage(FlowBackbone):
    """Z-Image; the network takes texts as a list without padding, time as 1 - t, and predicts x0 - eps."""

    pipelines = (ZImagePipeline,)
    checkpoints = ("z-image-turbo",)
    lora_targets = ("attention.to_q", "attention.to_k", "attention.to_v", "attention.to_out.0")
    steps = 50
    guidance_scale = 5.0
    text_length = 512
    trims_text = True
    unconditional_rows = "last"
    density = "logit-normal"

    @property
    def latent_shape(self) -> tuple[int, ...]:
        side = SIDE // self.unit
        return (self.network.config.in_channels, side, side)

    @property
    def patch(self) -> int:
        return 2

    def read(self, prompts: list[str]) -> Condition:
        rows, _ = self.pipe.encode_prompt(
            prompts, self.device, do_classifier_free_guidance=False, max_sequence_length=self.tokens
        )
        text = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        lengths = torch.tensor([len(row) for row in rows])
        return trimmed(text, torch.arange(text.shape[1])[None].expand(len(text), -1) < lengths[:, None])

    @classmethod
    def tokens_of(cls, tokenizer: Any, prompt: str) -> int:
        """With the turns of the chat that it is put into."""
        turn = [{"role": "user", "content": prompt}]
        options = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": True}
        return super().tokens_of(tokenizer, tokenizer.apply_chat_template(turn, **options))

    def denoise(self, denoiser: nn.Module, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        images = list(x_t.unsqueeze(2).unbind(0))
        time = 1 - self.timestep(t, x_t) / 1000
        answers = denoiser(images, time, _rows(condition), return_dict=False)[0]
        return -torch.stack(answers).squeeze(2)

    def pack(self, noise: Tensor) -> Tensor:
        return noise.float()  # the pipeline keeps its latents in float32

    def call_arguments(self, condition: Condition, unconditional: Condition, scale: float) -> dict[str, Any]:
        """Its pipeline counts guidance from 0: cond + (s - 1) (cond - uncond) is uncond + s (cond - uncond)."""
        text = _rows(condition)
        return {
            "prompt_embeds": text,
            "negative_prompt_embeds": _rows(unconditional) * len(text),
            "guidance_scale": scale - 1,
        }

    @classmethod
    def level_of(cls, time: float, config: Any) -> float:
        return 1 - time


def _rows(condition: Condition) -> list[Tensor]:
    """Each text without its padding."""
    return [text[:length] for text, length in zip(condition["text"], condition["length"].tolist(), strict=True)]
