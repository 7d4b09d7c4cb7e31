"""BLIP-VQA: the chance that a BLIP answers yes to a question about an image, as T2I-CompBench asks it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from PIL.Image import Image
from torch import Tensor

from contrapose.errors import UserError
from contrapose.judges.pretrained import find, fingerprint, load_image_processor, load_network, load_tokenizer

if TYPE_CHECKING:
    from jaxtyping import Float

_DROPPED = re.compile(r'[.!"()*#:;~]')  # of a question, before it is read


@dataclass(frozen=True)
class BlipVQA:
    """A BlipForQuestionAnswering, whose answers transformers does not give as chances."""

    network: Any
    tokenizer: Any
    processor: Any
    side: int
    """Of the images that it sees, which are squashed to squares."""
    version: str

    @torch.inference_mode()
    def look(self, image: Image) -> Float[Tensor, "1 n d"]:
        """The image as its questions see it; positions are interpolated to its side."""
        size = {"height": self.side, "width": self.side}
        pixels = self.processor(images=[image.convert("RGB")], size=size, return_tensors="pt")["pixel_values"]
        pixels = pixels.to(self.network.device, self.network.dtype)
        seen: Tensor = self.network.vision_model(pixel_values=pixels, interpolate_pos_encoding=True).last_hidden_state
        return seen

    @torch.inference_mode()
    def chance_of_yes(self, seen: Float[Tensor, "1 n d"], question: str) -> float:
        """P(yes) / (P(yes) + P(no)) of the answer's first token."""
        start = self.network.decoder_start_token_id
        text = _DROPPED.sub("", question.lower()).rstrip(" ")
        tokens = self.tokenizer(text, return_tensors="pt").to(seen.device)["input_ids"]
        tokens[:, 0] = start + 1  # [ENC], which the authors' code sets and transformers' does not
        read = self.network.text_encoder(
            input_ids=tokens,
            attention_mask=torch.ones_like(tokens),
            encoder_hidden_states=seen,
            encoder_attention_mask=torch.ones(seen.shape[:2], dtype=torch.long, device=seen.device),
        ).last_hidden_state
        logits = self.network.text_decoder(
            input_ids=torch.tensor([[start]], device=seen.device),
            encoder_hidden_states=read,
            encoder_attention_mask=torch.ones_like(tokens),
        ).logits[0, -1]
        yes, no = self.tokenizer.convert_tokens_to_ids(["yes", "no"])
        return float((logits[yes] - logits[no]).float().sigmoid())


def load_blip(user: str, model: str, side: int, device: str) -> BlipVQA:
    """A BLIP that answers questions, by folder or hub id; `UserError` when it is missing, broken or knows no yes."""
    from transformers import BlipForQuestionAnswering

    folder = find(user, model)
    network = load_network(user, folder, BlipForQuestionAnswering, "fp32", device)
    tokenizer = load_tokenizer(user, folder)
    unknown = [word for word in ("yes", "no") if tokenizer.convert_tokens_to_ids(word) == tokenizer.unk_token_id]
    if unknown:
        raise UserError(f"{user}: {folder}: its vocabulary lacks '{unknown[0]}'; use another BLIP")
    return BlipVQA(network, tokenizer, load_image_processor(user, folder), side, fingerprint(network))
