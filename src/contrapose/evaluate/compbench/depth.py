"""How near what is in an image lies, by a DPT through transformers, as T2I-CompBench's 3d_spatial asks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from PIL.Image import Image
from torch import Tensor

from contrapose.evaluate.boxes import Box
from contrapose.evaluate.compbench.rules import FRAME
from contrapose.judges.pretrained import find, fingerprint, load_image_processor, load_network

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class NearnessMap:
    """A DPTForDepthEstimation, whose values are larger where things are nearer."""

    network: Any
    processor: Any
    version: str

    @torch.inference_mode()
    def look(self, image: Image) -> Float[Tensor, "h w"]:
        """How near each pixel is, in the frame of the boxes, whose longer side is 480."""
        pixels = self.processor(images=[image.convert("RGB")], return_tensors="pt")["pixel_values"]
        nearness = self.network(pixel_values=pixels.to(self.network.device, self.network.dtype)).predicted_depth
        longer = max(image.size)
        size = [max(1, round(FRAME * side / longer)) for side in (image.height, image.width)]
        seen: Tensor = F.interpolate(nearness[None].float(), size, mode="bilinear", align_corners=True)[0, 0]
        return seen

    def nearer(self, image: Image, a: Box, b: Box) -> float:
        """How much nearer a lies than b, above 0 where it is before it."""
        seen = self.look(image)
        return _nearness_of(seen, a) - _nearness_of(seen, b)


def _nearness_of(seen: Float[Tensor, "h w"], box: Box) -> float:
    """The mean over a box, of one pixel at least.

    Differs from the authors' code, which takes rows for columns.
    """
    height, width = seen.shape
    left = min(int(box.left), width - 1)
    top = min(int(box.top), height - 1)
    right = max(int(box.right), left + 1)
    bottom = max(int(box.bottom), top + 1)
    return float(seen[top:bottom, left:right].mean())


def load_nearness(user: str, model: str, device: str) -> NearnessMap:
    """A DPT by folder or hub id; `UserError` when it is missing or broken."""
    from transformers import DPTForDepthEstimation

    folder = find(user, model)
    network = load_network(user, folder, DPTForDepthEstimation, "fp32", device)
    return NearnessMap(network, load_image_processor(user, folder), fingerprint(network))
