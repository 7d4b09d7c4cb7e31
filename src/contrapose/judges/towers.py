"""CLIP's two towers, from images and prompts to unit vectors in one space."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from PIL.Image import Image
from torch import Tensor

from contrapose.backbones.settings import Precision
from contrapose.judges.pretrained import SMALL_FILES, find, load_image_processor, load_network, load_tokenizer

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class Towers:
    """A CLIPModel with its preparation of images and prompts; prompts are cut at the model's length, 77 as a rule."""

    network: Any
    tokenizer: Any
    prepare: Callable[[Sequence[Image]], Float[Tensor, "b 3 h w"]]
    """From RGB images to what the network sees."""

    @property
    def _text_length(self) -> int:
        return int(self.network.config.text_config.max_position_embeddings)

    def see(self, images: Sequence[Image]) -> Float[Tensor, "b d"]:
        """Unit vectors of RGB images."""
        pixels = self.prepare(images).to(self.network.device, self.network.dtype)
        return _unit(self.network.get_image_features(pixel_values=pixels))

    def read(self, prompts: Sequence[str]) -> Float[Tensor, "b d"]:
        """Unit vectors of prompts, all padded to one length, so that a batch computes what each would alone."""
        tokens = self.tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=self._text_length, return_tensors="pt"
        ).to(self.network.device)
        return _unit(
            self.network.get_text_features(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
        )

    def cosine(self, images: Sequence[Image], prompts: Sequence[str]) -> Float[Tensor, " b"]:
        """cos(image, prompt) of each pair."""
        return (self.see(images) * self.read(prompts)).sum(-1)


def load_towers(user: str, model: str, processor: str, precision: Precision, device: str) -> Towers:
    """A published CLIP model; images: short side to its side (bicubic), centre crop, mean and deviation of its own.

    `processor` is the folder or hub id of tokenizer and preparation. Raises `UserError` naming `user`, the judge that
    needs the model, when something is missing or broken.
    """
    from transformers import CLIPModel

    folder = find(user, model)
    prepared = folder if processor == model else find(user, processor, SMALL_FILES)
    processing = load_image_processor(user, prepared)

    def prepare(images: Sequence[Image]) -> Tensor:
        pixels: Tensor = processing(images=list(images), return_tensors="pt")["pixel_values"]
        return pixels

    return Towers(load_network(user, folder, CLIPModel, precision, device), load_tokenizer(user, prepared), prepare)


def _unit(output: object) -> Float[Tensor, "b d"]:
    features = getattr(output, "pooler_output", output)  # a tensor until transformers 5
    assert isinstance(features, torch.Tensor)
    return F.normalize(features.float(), dim=-1)
