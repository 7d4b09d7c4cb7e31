"""Text embeddings, each distinct prompt read once as long as memory allows."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from contrapose.backbones.base import Backbone
from contrapose.core.group import Condition

LIMIT = 4 << 30  # bytes of embeddings kept; beyond, the oldest make room
_AT_ONCE = 64  # prompts that go through the text encoder together


class Embeddings:
    """Conditions by prompt, computed when first asked for and kept on the CPU."""

    def __init__(self, backbone: Backbone, limit: int = LIMIT):
        self.backbone, self.limit = backbone, limit
        self._known: dict[str, Condition] = {}

    def __call__(self, prompts: Sequence[str]) -> Condition:
        """The condition of these prompts, stacked in order."""
        new = [p for p in dict.fromkeys(prompts) if p not in self._known]
        for first in range(0, len(new), _AT_ONCE):
            some = new[first : first + _AT_ONCE]
            condition = {name: value.cpu() for name, value in self.backbone.embed(some).items()}
            for row, prompt in enumerate(some):
                self._known[prompt] = {name: value[row] for name, value in condition.items()}
        rows = [self._known[prompt] for prompt in prompts]
        stacked = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
        while self._known and not self.fit(len(self._known)):
            del self._known[next(iter(self._known))]
        return stacked

    def fit(self, num_prompts: int) -> bool:
        """Whether the conditions of so many prompts can be kept."""
        one = next(iter(self._known.values()), None) or self.backbone.embed([""])
        return num_prompts * sum(value.nbytes for value in one.values()) <= self.limit
