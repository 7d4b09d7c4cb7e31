"""The network of ImageReward: a text encoder that looks at the image, and a head on the text's first token."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers import BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

if TYPE_CHECKING:
    from jaxtyping import Float, Int

_HEAD_WIDTH = 64  # of an attention head, in every published BLIP
_WIDTHS = (1024, 128, 64, 16, 1)  # of the reward's layers, between which there are no activations
_PLACES = (0, 2, 4, 6, 7)  # of these layers in the authors' file, where dropout stands between them
# Parts of the authors' image encoder, which is named as timm does, and of transformers'.
_SEEING = {
    "cls_token": "embeddings.class_embedding",
    "pos_embed": "embeddings.position_embedding",
    "patch_embed.proj": "embeddings.patch_embedding",
    "norm": "post_layernorm",
}
_IN_BLOCK = {
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "attn.qkv": "self_attn.qkv",
    "attn.proj": "self_attn.projection",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)\.(weight|bias)")
_POSITIONS = "text.embeddings.position_ids"  # 0, 1, 2, ...: kept by old files, made anew by transformers


def as_transformers(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """ImageReward's weights under the names of `BlipReward`; `KeyError` for a name that its image encoder lacks."""
    weights: dict[str, Tensor] = {}
    for name, value in stored.items():
        part, _, rest = name.removeprefix("blip.").partition(".")
        if part == "visual_encoder":
            weights[f"vision.{_seeing(rest)}"] = value
        elif part == "text_encoder":
            weights[f"text.{rest}"] = value  # transformers kept the authors' names
        elif part == "mlp":
            number, _, end = rest.removeprefix("layers.").partition(".")
            weights[f"head.{_PLACES.index(int(number))}.{end}"] = value
        else:
            raise KeyError(name)
    weights.pop(_POSITIONS, None)
    return weights


def _seeing(name: str) -> str:
    block = _BLOCK.fullmatch(name)
    if block is not None:
        number, part, end = block.groups()
        return f"encoder.layers.{number}.{_IN_BLOCK[part]}.{end}"
    part, dot, end = name.rpartition(".")
    if end in ("weight", "bias"):
        return f"{_SEEING[part]}{dot}{end}"
    return _SEEING[name]


class BlipReward(nn.Module):
    """reward = head(first token of text_encoder(prompt, image_encoder(image)))."""

    def __init__(self, vision: BlipVisionConfig, text: BlipTextConfig, side: int) -> None:
        super().__init__()
        self.side = side
        self.vision = BlipVisionModel(vision)
        self.text = BlipTextModel(text, add_pooling_layer=False)
        widths = (text.hidden_size, *_WIDTHS)
        self.head = nn.Sequential(*(nn.Linear(*ends) for ends in pairwise(widths)))

    @classmethod
    def of_weights(cls, stored: Mapping[str, Tensor]) -> BlipReward:
        """The network of ImageReward's weights, whose sizes are theirs."""
        weights = as_transformers(stored)
        width, _, patch, _ = weights["vision.embeddings.patch_embedding.weight"].shape
        num_patches = weights["vision.embeddings.position_embedding"].shape[1] - 1  # one place is the class token's
        side = patch * round(num_patches**0.5)
        vision = BlipVisionConfig(
            hidden_size=width,
            intermediate_size=len(weights["vision.encoder.layers.0.mlp.fc1.bias"]),
            num_hidden_layers=_num_layers(weights, "vision.encoder.layers."),
            num_attention_heads=width // _HEAD_WIDTH,
            image_size=side,
            patch_size=patch,
            layer_norm_eps=1e-6,
        )
        vocabulary, text_width = weights["text.embeddings.word_embeddings.weight"].shape
        text = BlipTextConfig(
            vocab_size=vocabulary,
            hidden_size=text_width,
            intermediate_size=len(weights["text.encoder.layer.0.intermediate.dense.bias"]),
            num_hidden_layers=_num_layers(weights, "text.encoder.layer."),
            num_attention_heads=text_width // _HEAD_WIDTH,
            max_position_embeddings=len(weights["text.embeddings.position_embeddings.weight"]),
            encoder_hidden_size=width,
            is_decoder=True,  # otherwise there is no attention to the image; calls say that nothing is decoded
            bos_token_id=None,
            eos_token_id=None,
            sep_token_id=None,
        )
        network = cls(vision, text, side)
        network.load_state_dict(weights)
        return network

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        return self.text.dtype

    def forward(
        self, pixels: Float[Tensor, "b 3 s s"], tokens: Int[Tensor, "b n"], mask: Int[Tensor, "b n"]
    ) -> Float[Tensor, " b"]:
        seen = self.vision(pixel_values=pixels).last_hidden_state
        everywhere = torch.ones(seen.shape[:2], dtype=torch.long, device=seen.device)
        read = self.text(
            input_ids=tokens,
            attention_mask=mask,
            encoder_hidden_states=seen,
            encoder_attention_mask=everywhere,
            is_decoder=False,
        )
        reward: Tensor = self.head(read.last_hidden_state[:, 0])[:, 0]
        return reward.float()


def _num_layers(weights: Mapping[str, Tensor], prefix: str) -> int:
    """How many numbers follow this prefix in the weights' names."""
    return len({name.removeprefix(prefix).partition(".")[0] for name in weights if name.startswith(prefix)})
