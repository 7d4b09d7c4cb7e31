"""Text embeddings, each distinct prompt read once."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from contrapose.backbones.base import Backbone
from contrapose.core.group import Condition

_AT_ONCE = 64  # prompts that go through the text encoder together


class Embeddings:
    """Conditions by prompt, computed when first asked for."""

    def __init__(self, backbone: Backbone):
        self.backbone = backbone
        self._known: dict[str, Condition] = {}

    def __call__(self, prompts: Sequence[str]) -> Condition:
        """The condition of these prompts, stacked in order."""
        new = [p for p in dict.fromkeys(prompts) if p not in self._known]
        for first in range(0, len(new), _AT_ONCE):
            some = new[first : first + _AT_ONCE]
            condition = self.backbone.embed(some)
            for row, prompt in enumerate(some):
                self._known[prompt] = {name: value[row].cpu() for name, value in condition.items()}
        rows = [self._known[prompt] for prompt in prompts]
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}

    def num_bytes(self, num_prompts: int) -> int:
        """Memory that the conditions of so many prompts take."""
        condition = self([""])
        return num_prompts * sum(value.nbytes for value in condition.values())
