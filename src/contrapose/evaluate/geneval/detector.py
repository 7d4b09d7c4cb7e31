"""COCO's objects by a Mask2Former through transformers, read out as the detector that GenEval was published with.

GenEval's own is mmdet's training of the same network (Swin-S), so that scores are close and not equal: tables say
"GenEval (HF detector)". transformers' own reading of instances is not used, since it takes masks through 384x384 and
lets objects overwrite each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from contrapose.errors import UserError
from contrapose.evaluate.verdict import Detection
from contrapose.judges.pretrained import find, fingerprint, load_image_processor, load_network

if TYPE_CHECKING:
    from jaxtyping import Float

# COCO's order, in the words of GenEval's prompts. The network's own names differ (aeroplane, sofa, tvmonitor).
CLASSES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow",
    "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee",
    "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard",
    "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple",
    "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch",
    "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "computer mouse", "tv remote",
    "computer keyboard", "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock",
    "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip
_ANCHORS = {0: "person", 15: "cat", 16: "dog", 79: "toothbrush"}  # names on which everybody agrees
_SHORT_SIDE = 800  # of the image that the network sees, at most _LONG_SIDE by the other side
_LONG_SIDE = 1333
_MOST = 100  # candidates of an image
_LEAST_SCORE = 0.05  # no rule of GenEval looks at less; masks below it are not kept


@dataclass(frozen=True)
class CocoDetector:
    """Objects of COCO's 80 classes with their masks."""

    network: Any
    processor: Any
    version: str

    @torch.inference_mode()
    def detect(self, image: NDArray[np.uint8]) -> dict[str, list[Detection]]:
        """Objects by class; image is RGB, [h, w, 3]."""
        size = {"shortest_edge": _SHORT_SIDE, "longest_edge": _LONG_SIDE}
        inputs = self.processor(images=[image], size=size, return_tensors="pt")
        answer = self.network(pixel_values=inputs["pixel_values"].to(self.network.device))
        # what is neither padding nor the original: the image as it was resized
        rows, columns = inputs["pixel_mask"][0].nonzero().max(0).values.tolist()
        logits = F.interpolate(answer.masks_queries_logits.float(), inputs["pixel_values"].shape[-2:], mode="bilinear")
        logits = logits[..., : rows + 1, : columns + 1]
        classes = answer.class_queries_logits[0].float()
        return detections(classes, logits[0], (image.shape[0], image.shape[1]))


def detections(
    classes: Float[Tensor, "q c1"], masks: Float[Tensor, "q h w"], size: tuple[int, int]
) -> dict[str, list[Detection]]:
    """Objects from the answers of q queries, c + 1 classes (the last is none), at the original size (height, width).

    The 100 best (query, class) by p = softmax(classes); mask = logit > 0 at the original size; score = p times the
    mean of sigmoid(logit) inside the mask; the box is the mask's.
    """
    num_classes = classes.shape[1] - 1
    chances = classes.softmax(-1)[:, :num_classes].flatten()
    best, places = chances.topk(min(_MOST, len(chances)))
    objects: dict[str, list[Detection]] = {}
    for chance, place in zip(best.tolist(), places.tolist(), strict=True):
        if chance < _LEAST_SCORE:  # the score is never more, and the others are still smaller
            break
        query, number = divmod(place, num_classes)
        logit = F.interpolate(masks[query][None, None], size, mode="bilinear", align_corners=False)[0, 0]
        mask = logit > 0
        if not mask.any():
            continue
        score = chance * float(logit[mask].sigmoid().mean())
        if score >= _LEAST_SCORE:
            inside = mask.cpu().numpy()
            objects.setdefault(CLASSES[number], []).append(Detection(box_of(inside), inside, score))
    return objects


def box_of(mask: NDArray[np.bool_]) -> tuple[float, float, float, float]:
    """(x0, y0, x1 + 1, y1 + 1) of a mask's pixels."""
    columns = np.flatnonzero(mask.any(0))
    rows = np.flatnonzero(mask.any(1))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def load_detector(model: str, device: str) -> CocoDetector:
    """A Mask2Former of COCO's instances by folder or hub id.

    Raises `UserError` when it is missing or broken, or knows other classes.
    """
    from transformers import Mask2FormerForUniversalSegmentation

    folder = find("geneval", model)
    network = load_network("geneval", folder, Mask2FormerForUniversalSegmentation, "fp32", device)
    names = network.config.id2label
    if len(names) != len(CLASSES) or any(names[number] != name for number, name in _ANCHORS.items()):
        raise UserError(f"geneval: {folder}: knows other classes than COCO's 80 things; use an instance model of COCO")
    return CocoDetector(network, load_image_processor("geneval", folder), fingerprint(network))
