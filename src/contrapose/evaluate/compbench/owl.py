"""Boxes of whatever a prompt names, by an OWLv2 through transformers in place of CompBench's UniDet.

It knows any words, and not UniDet's 722 classes alone, and is sure of other things than UniDet is: scores by it are
"CompBench-OWL, not comparable".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from PIL.Image import Image
from torch import Tensor

from contrapose.evaluate.boxes import Box
from contrapose.evaluate.compbench.rules import FRAME, overlap
from contrapose.judges.pretrained import find, fingerprint, load_image_processor, load_network, load_tokenizer

if TYPE_CHECKING:
    from jaxtyping import Float

_DOUBLE = 0.5  # IoU with a better box of the name, over which a box is dropped, as R-CNNs do


@dataclass(frozen=True)
class OwlDetector:
    """An Owlv2ForObjectDetection, asked for "a photo of a {name}"."""

    network: Any
    tokenizer: Any
    processor: Any
    least: float
    """Boxes count above this score."""
    version: str

    @torch.inference_mode()
    def find(self, image: Image, names: Sequence[str]) -> dict[str, list[Box]]:
        """By name the boxes, the best first, in a frame whose longer side is 480; each is of the name that fits best.

        Score = sigmoid(logit); of boxes of one name whose IoU is over 0.5 the best stays.
        """
        unlike = list(dict.fromkeys(names))
        length = self.network.config.text_config.max_position_embeddings
        texts = [f"a photo of a {name}" for name in unlike]
        tokens = self.tokenizer(texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
        pixels = self.processor(images=[image.convert("RGB")], return_tensors="pt")["pixel_values"]
        device = self.network.device
        answer = self.network(
            input_ids=tokens["input_ids"].to(device),
            attention_mask=tokens["attention_mask"].to(device),
            pixel_values=pixels.to(device, self.network.dtype),
        )
        scores, labels = answer.logits[0].float().sigmoid().max(-1)
        boxes: dict[str, list[Box]] = {name: [] for name in unlike}
        # best first, so that of two boxes about one thing the better stays
        for place in scores.argsort(descending=True, stable=True).tolist():
            score = float(scores[place])
            if score <= self.least:
                break
            box = _in_frame(answer.pred_boxes[0, place], score, image.size)
            if box.left >= box.right or box.top >= box.bottom:  # in what the image was padded with
                continue
            of_name = boxes[unlike[int(labels[place])]]
            if all(overlap(box, better) <= _DOUBLE for better in of_name):
                of_name.append(box)
        return boxes


def _in_frame(box: Float[Tensor, " 4"], score: float, size: tuple[int, int]) -> Box:
    """The box cut to its image of size (width, height), from centre and size in shares of its longer side.

    OWLv2 sees images padded to squares.
    """
    x, y, width, height = box.tolist()
    right = FRAME * size[0] / max(size)
    bottom = FRAME * size[1] / max(size)
    left_edge = min(max((x - width / 2) * FRAME, 0.0), right)
    top_edge = min(max((y - height / 2) * FRAME, 0.0), bottom)
    right_edge = min(max((x + width / 2) * FRAME, 0.0), right)
    bottom_edge = min(max((y + height / 2) * FRAME, 0.0), bottom)
    return Box(left_edge, top_edge, right_edge, bottom_edge, score)


def load_owl(user: str, model: str, least: float, device: str) -> OwlDetector:
    """An OWLv2 by folder or hub id; `UserError` when it is missing or broken."""
    from transformers import Owlv2ForObjectDetection

    folder = find(user, model)
    network = load_network(user, folder, Owlv2ForObjectDetection, "fp32", device)
    tokenizer = load_tokenizer(user, folder)
    return OwlDetector(network, tokenizer, load_image_processor(user, folder), least, fingerprint(network))
