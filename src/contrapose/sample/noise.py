"""Starting noise that depends on prompt and seed alone: not on the batch, its order, or the device."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def random_seed(*parts: object) -> int:
    """A 63-bit seed from anything printable; the same on every machine and in every process."""
    text = "\x1f".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big") >> 1


def generator(prompt: str, seed: int) -> torch.Generator:
    """The random stream of one image; on the CPU, so that every device draws the same."""
    return torch.Generator("cpu").manual_seed(random_seed(prompt, seed))


def starting_noise(streams: list[torch.Generator], shape: tuple[int, ...]) -> Tensor:
    """Standard normal latents [b, ...], row i from stream i."""
    return torch.stack([torch.randn(shape, generator=stream) for stream in streams])
