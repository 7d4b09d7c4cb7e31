"""Z-Image: a transformer on image and text as one sequence, Qwen3, flow velocity counted from noise to data."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import ZImagePipeline
from diffusers.models.transformers.transformer_z_image import SEQ_MULTI_OF
from torch import Tensor, nn

from contrapose.backbones.family import Family, plain_count
from contrapose.backbones.flow import Flow, shifted_scale, timestep
from contrapose.backbones.masked_text import trimmed
from contrapose.backbones.networks import Network
from contrapose.core.group import Condition

_SIDE = 1024  # pixels of the usual image; the pipeline's own default, which no configuration holds


def _read(pipe: Any, prompts: list[str], device: torch.device, tokens: int) -> Condition:
    rows, _ = pipe.encode_prompt(prompts, device, do_classifier_free_guidance=False, max_sequence_length=tokens)
    text = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    lengths = torch.tensor([len(row) for row in rows])
    return trimmed(text, torch.arange(text.shape[1])[None].expand(len(text), -1) < lengths[:, None])


def _count(tokenizer: Any, prompt: str) -> int:
    """With the turns of the chat that it is put into."""
    turn = [{"role": "user", "content": prompt}]
    options = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": True}
    return plain_count(tokenizer, tokenizer.apply_chat_template(turn, **options))


def _text_alone(network: Network, text: Tensor, like: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
    """Text as it is before it meets the image, on every row [b, l, d], and its places' rotations [b, l, r].

    Its places are 1, 2, ..., l, with l filled up as the network fills it up; in the rotations l is moved to `ends`.
    """
    words = network.cap_embedder(text[0].to(like.device, like.dtype))
    filling = network.cap_pad_token.expand(-len(words) % SEQ_MULTI_OF, -1).to(words.dtype)
    words = torch.cat([words, filling])
    places = nn.functional.pad(torch.arange(1, len(words) + 1, device=like.device)[:, None], (0, 2))
    turns = network.rope_embedder(places)
    stream = words[None].to(like.device, like.dtype).expand(len(like), -1, -1)
    places_turned = turns.expand(len(like), -1, -1)
    for block in network.context_refiner:
        stream = block(stream, None, places_turned)
    # a rotation by the last place is turned back, and one by the end put on
    moved = network.rope_embedder(nn.functional.pad(ends[:, None], (0, 2))) * turns[-1].conj()
    return stream, places_turned * moved[:, None]


def _latent_shape(pipe: Any, network: Network) -> tuple[int, ...]:
    side = _SIDE // int(pipe.vae_scale_factor)
    return (network.config.in_channels, side, side)


def _denoise(pipe: Any, network: Network, x_t: Tensor, t: Tensor, condition: Condition, fed: float) -> Tensor:
    """The network takes texts as a list without padding, time as 1 - t, and predicts x0 - eps."""
    images = list(x_t.unsqueeze(2).unbind(0))
    time = 1 - timestep(t, x_t) / 1000
    answers = network(images, time, _rows(condition), return_dict=False)[0]
    return -torch.stack(answers).squeeze(2)


def _call_arguments(condition: Condition, unconditional: Condition, scale: float, tokens: int) -> dict[str, Any]:
    """Its pipeline counts guidance from 0: cond + (s - 1) (cond - uncond) is uncond + s (cond - uncond)."""
    text = _rows(condition)
    return {
        "prompt_embeds": text,
        "negative_prompt_embeds": _rows(unconditional) * len(text),
        "guidance_scale": scale - 1,
    }


def _rows(condition: Condition) -> list[Tensor]:
    """Each text without its padding."""
    return [text[:length] for text, length in zip(condition["text"], condition["length"].tolist(), strict=True)]


def _level_of(time: float, config: Any) -> float:
    """The network counts from noise, 0, to data, 1."""
    return 1 - time


Z_IMAGE = Family(
    name="ZImage",
    pipelines=(ZImagePipeline,),
    checkpoints=("z-image-turbo",),
    read=_read,
    count=_count,
    text_length=512,
    text_width="cap_feat_dim",
    trims_text=True,
    latent_shape=_latent_shape,
    latent_scale=shifted_scale,
    patch=2,
    process=Flow(),
    density="logit-normal",
    denoise=_denoise,
    level_of=_level_of,
    lora_targets=("attention.to_q", "attention.to_k", "attention.to_v", "attention.to_out.0"),
    attention="single",
    text_alone=_text_alone,
    steps=50,
    guidance_scale=5.0,
    unconditional_rows="last",
    call_arguments=_call_arguments,
    pack=lambda pipe, noise, dtype: noise.float(),  # the pipeline keeps its latents in float32
)
