"""Seeds made from text, and the random streams that they start: the same on every machine and in every process."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def seed_of(*parts: object) -> int:
    """A 63-bit seed from anything printable."""
    text = "\x1f".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big") >> 1


def generator(prompt: str, seed: int) -> torch.Generator:
    """The random stream of one image, by its prompt and seed alone; on the CPU, so that every device draws the same."""
    return torch.Generator("cpu").manual_seed(seed_of(prompt, seed))


def starting_noise(streams: list[torch.Generator], shape: tuple[int, ...]) -> Tensor:
    """Standard normal latents [b, ...], row i from stream i."""
    return torch.stack([torch.randn(shape, generator=stream) for stream in streams])
