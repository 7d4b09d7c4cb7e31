"""How colourful an image is, by a formula: there are no weights to load."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from PIL.Image import Image

from contrapose.judges.judge import Judge, Marks
from contrapose.store.prompts import Prompt


def colourfulness(image: Image) -> float:
    """sqrt(std_rg^2 + std_yb^2) + 0.3 sqrt(mean_rg^2 + mean_yb^2), rg = R - G, yb = (R + G)/2 - B, of 0..255.

    Hasler & Suesstrunk 2003, "Measuring colourfulness in natural images", M3: 0 is grey, 109 extremely so.
    """
    red, green, blue = np.moveaxis(np.asarray(image.convert("RGB"), dtype=np.float64), -1, 0)
    rg = red - green
    yb = (red + green) / 2 - blue
    return float(math.hypot(rg.std(), yb.std()) + 0.3 * math.hypot(rg.mean(), yb.mean()))


@dataclass(frozen=True)
class Colours:
    """`colourfulness`, which does not look at the prompt: about 15 is slightly, 45 quite and 82 highly colourful."""

    name: ClassVar[str] = "colourfulness"
    version: ClassVar[str] = "1"

    @property
    def higher_is_better(self) -> dict[str, bool]:
        return {self.name: True}

    def load(self, device: str) -> Judge:
        return self

    def __call__(self, images: Sequence[Image], prompts: Sequence[Prompt]) -> dict[str, Marks]:
        return {self.name: Marks(np.array([colourfulness(image) for image in images]))}
