"""What every scorer is, and the one way in which images go through a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image
from torch import Tensor

from contrapose.errors import UserError
from contrapose.ranges import Batch, checked


class Scorer(Protocol):
    """Gives each image a number, which depends on the image and its prompt alone."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str:
        """A digest of the weights: scores of different versions are not to be compared."""
        ...

    @property
    def higher_is_better(self) -> bool: ...

    def score(self, images: Sequence[Image], prompts: Sequence[str]) -> NDArray[np.float64]:
        """One number an image, in their order; images are of any size and mode."""
        ...


@dataclass(frozen=True)
@checked
class Batched:
    """A scorer of a function from RGB images and prompts to a tensor [b], called with `batch_size` of them at a time.

    Raises `UserError` where a score is no number: comparisons with it would drop images without a word.
    """

    name: str
    version: str
    measure: Callable[[list[Image], list[str]], Tensor]
    batch_size: Batch = 1
    higher_is_better: bool = True

    @torch.inference_mode()
    def score(self, images: Sequence[Image], prompts: Sequence[str]) -> NDArray[np.float64]:
        pairs = [(image.convert("RGB"), prompt) for image, prompt in zip(images, prompts, strict=True)]
        batches = [pairs[first : first + self.batch_size] for first in range(0, len(pairs), self.batch_size)]
        found = [self.measure([i for i, _ in batch], [p for _, p in batch]).double().cpu().numpy() for batch in batches]
        scores = np.concatenate([np.empty(0), *found])
        if not np.isfinite(scores).all():
            raise UserError(f"{self.name}: a score is not a number; use dtype fp32, or download the weights again")
        return scores
