"""The one way in which images go through a network that scores them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from contrapose.errors import UserError
from contrapose.judges.judge import Marks
from contrapose.ranges import Batch, checked
from contrapose.store.prompts import Prompt


@dataclass(frozen=True)
@checked
class Batched:
    """A judge of one number, the larger the better, by a function from RGB images and texts of prompts to [b].

    The function sees `batch_size` images at a time, so that memory does not grow with what is asked for.
    Raises `UserError` where a number is not finite: comparisons with it would drop images without a word.
    """

    name: str
    version: str
    measure: Callable[[list[Image], list[str]], Tensor]
    batch_size: Batch = 1

    @property
    def higher_is_better(self) -> dict[str, bool]:
        return {self.name: True}

    @torch.inference_mode()
    def __call__(self, images: Sequence[Image], prompts: Sequence[Prompt]) -> dict[str, Marks]:
        if len(images) != len(prompts):
            raise ValueError(f"{len(images)} images and {len(prompts)} prompts")
        scores = np.empty(len(images))
        for first in range(0, len(images), self.batch_size):
            batch = slice(first, first + self.batch_size)
            pixels = [image.convert("RGB") for image in images[batch]]
            texts = [prompt.text for prompt in prompts[batch]]
            scores[batch] = self.measure(pixels, texts).double().cpu().numpy()
        if not np.isfinite(scores).all():
            raise UserError(f"{self.name}: a score is not a number; use precision fp32, or download the weights again")
        return {self.name: Marks(scores)}
