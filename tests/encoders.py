"""Stand-ins for a backbone that read texts by rules of their own, and count what they are asked."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch

from contrapose.core.group import Condition

PROMPTS = (
    "a cat",
    "",
    "猫 🎨",
    "\ud800 alone",
    "? alone",
    "a much longer prompt than all the others",
    "line\nbreak",
    "é.x",
)


class Backbone:
    """Reads a text's bytes; counts what it is asked."""

    def __init__(self, settings: str = "fake 1", dtype: torch.dtype = torch.float32, encoder_bytes: int = 10**9):
        self.settings, self.dtype, self.encoder_bytes = settings, dtype, encoder_bytes
        self.asked: list[list[str]] = []
        self.unconditional_asked = 0

    def embed(self, prompts: Sequence[str]) -> Condition:
        self.asked.append(list(prompts))
        return self.read(prompts)

    def unconditional(self) -> Condition:
        self.unconditional_asked += 1
        return {name: value if name == "length" else value * 3 for name, value in self.read([""]).items()}

    def read(self, prompts: Sequence[str]) -> Condition:
        raise NotImplementedError

    def rows(self, prompt: str, rows: int, width: int = 6) -> torch.Tensor:
        stream = torch.Generator().manual_seed(int(hashlib.sha256(repr(prompt).encode()).hexdigest()[:8], 16))
        return torch.randn(rows, width, generator=stream).to(self.dtype)

    @property
    def read_in(self) -> list[str]:
        return [prompt for prompts in self.asked for prompt in prompts]


class Fixed(Backbone):
    """Every row has five tokens, and a pooled output of the same or another precision."""

    times = 1

    def read(self, prompts: Sequence[str]) -> Condition:
        text = torch.stack([self.rows(p, 5) for p in prompts]) * self.times
        return {"text": text, "pooled": text.double().sum(1)}


class Ragged(Backbone):
    """As many tokens as characters, zeros beyond them; `room` tokens in every batch, or the longest row's."""

    def __init__(self, *arguments, room: int | None = None, **more):
        super().__init__(*arguments, **more)
        self.room = room

    def read(self, prompts: Sequence[str]) -> Condition:
        texts = [self.rows(p, len(p)) for p in prompts]
        padded = torch.zeros(len(texts), self.room or max(map(len, texts)), 6, dtype=self.dtype)
        for row, text in zip(padded, texts, strict=True):
            row[: len(text)] = text
        return {"text": padded, "length": torch.tensor([len(text) for text in texts])}


def same(one: Condition, other: Condition) -> bool:
    return one.keys() == other.keys() and all(
        one[n].dtype == other[n].dtype and torch.equal(one[n], other[n]) for n in one
    )


def shards(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.safetensors"))
