"""The colour of a detected object, by CLIP: the nearest of ten, over three ways to say it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from contrapose.evaluate.verdict import Detection
from contrapose.judges.towers import Towers

if TYPE_CHECKING:
    from jaxtyping import Float

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
TEMPLATES = ("a photo of a {colour} {name}", "a photo of a {colour}-colored {name}", "a photo of a {colour} object")
_GREY = 0x99  # what lies around the object, so that only it has a colour


@dataclass(frozen=True)
class ColourClassifier:
    """argmax over colours of cos(crop, mean over templates of the unit text vectors, made unit again)."""

    towers: Towers
    _texts: dict[str, Float[Tensor, "10 d"]] = field(default_factory=dict, compare=False)
    """By class, since a set has many images of each."""

    @torch.inference_mode()
    def __call__(self, image: NDArray[np.uint8], detection: Detection, name: str) -> str:
        """Differs from the authors' code: computed in fp32, and not under fp16 autocast."""
        seen = self.towers.see([crop(image, detection)])[0]
        if name not in self._texts:
            self._texts[name] = self._read(name)
        return COLOURS[int((self._texts[name] @ seen).argmax())]

    def _read(self, name: str) -> Float[Tensor, "10 d"]:
        """Each colour's text vector for objects of this name."""
        vectors = []
        for colour in COLOURS:
            texts = [template.format(colour=colour, name=name) for template in TEMPLATES]
            vectors.append(self.towers.read(texts).mean(0))
        return F.normalize(torch.stack(vectors), dim=-1)


def crop(image: NDArray[np.uint8], detection: Detection) -> Image.Image:
    """The object within its box, and grey where its mask is not."""
    alone = np.where(detection.mask[..., None], image, np.uint8(_GREY))
    left, top, right, bottom = (int(edge) for edge in detection.box)
    return Image.fromarray(alone[top:bottom, left:right])
