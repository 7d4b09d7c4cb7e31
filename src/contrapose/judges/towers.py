"""CLIP's two towers, from images and prompts to unit vectors in one space."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL.Image import Image
from torch import Tensor

from contrapose.backbones.settings import Precision
from contrapose.judges.pretrained import find, load_image_processor, load_network, load_tokenizer

_SMALL = ' --include "*.json" --include "*.txt"'  # a processor's files; its weights are not read


class Towers:
    """A CLIPModel with its preparation of images and prompts.

    Images: short side to 224 (bicubic), centre crop, CLIP's mean and deviation. Prompts: truncated at 77 tokens.
    Loading raises `UserError` naming `user` when something is missing or broken.
    """

    def __init__(self, user: str, model: str, processor: str, dtype: Precision, device: str) -> None:
        from transformers import CLIPModel

        folder = find(user, model)
        prepared = folder if processor == model else find(user, processor, _SMALL)
        self._images = load_image_processor(user, prepared)
        self._tokenizer = load_tokenizer(user, prepared)
        self.network = load_network(user, folder, CLIPModel, dtype, device)
        self._text_length = self.network.config.text_config.max_position_embeddings

    def see(self, images: Sequence[Image]) -> Float[Tensor, "b d"]:
        """Unit vectors of RGB images."""
        pixels = self._images(images=list(images), return_tensors="pt")["pixel_values"]
        return _unit(self.network.get_image_features(pixel_values=pixels.to(self.network.device, self.network.dtype)))

    def read(self, prompts: Sequence[str]) -> Float[Tensor, "b d"]:
        """Unit vectors of prompts, all padded to one length, so that a batch computes what each would alone."""
        tokens = self._tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=self._text_length, return_tensors="pt"
        ).to(self.network.device)
        return _unit(
            self.network.get_text_features(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
        )

    def cosine(self, images: Sequence[Image], prompts: Sequence[str]) -> Float[Tensor, " b"]:
        """cos(image, prompt) of each pair."""
        return (self.see(images) * self.read(prompts)).sum(-1)


def _unit(output: object) -> Float[Tensor, "b d"]:
    features = getattr(output, "pooler_output", output)  # a tensor until transformers 5
    assert isinstance(features, torch.Tensor)
    return F.normalize(features.float(), dim=-1)
