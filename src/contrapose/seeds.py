"""Everything random begins here: seeds and identifiers made from text, the same on every machine and in every process.

Stores hold what these functions give, so none of their values may ever change.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # torch takes a second to import, and those who want a number alone need none
    import torch
    from torch import Tensor


def seed_of(*parts: object, bits: int = 63, between: str = "\x1f") -> int:
    """A seed of so many bits, 63 being all that torch takes, from anything printable: the first of sha256.

    `between` stands between the printed parts, so that ("ab", "c") and ("a", "bc") differ.
    """
    text = between.join(map(str, parts))
    # half a character, as JSON and names of files can hold it, has a seed too
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest, "big") >> (8 * len(digest) - bits)


def prompt_seed(*parts: object, bits: int = 63) -> int:
    """The seed of a prompt's own draw when it is degraded; its values are those of the first stores."""
    return seed_of(*parts, bits=bits, between="\0")


def identifier(*parts: object) -> str:
    """Sixteen hexadecimal digits by which the parts are known: their seed, written out."""
    return f"{seed_of(*parts):016x}"


def generator(*parts: object) -> torch.Generator:
    """The random stream of what the parts name, such as an image; on the CPU, so that all devices draw the same."""
    import torch

    return torch.Generator("cpu").manual_seed(seed_of(*parts))


def python_stream(*parts: object) -> random.Random:
    """The random stream of a prompt's own draw when it is degraded, so that no prompt's draw depends on another's."""
    return random.Random(prompt_seed(*parts, bits=256))


def starting_noise(streams: list[torch.Generator], shape: tuple[int, ...]) -> Tensor:
    """Standard normal latents [b, ...], row i from stream i."""
    import torch

    return torch.stack([torch.randn(shape, generator=stream) for stream in streams])


def spread_numbers(positions: Sequence[int], *parts: object) -> Tensor:
    """Numbers of these positions, 0 to below 1, in the sequence u + n phi modulo 1: u by what the parts name.

    Wherever such a sequence begins and ends, its numbers lie evenly: with phi, the golden ratio, no gap between two
    neighbours, around the end too, is more than phi^2 = 2.62 times another (three-gap theorem, Sos 1958).
    """
    import torch

    phi = (1 + math.sqrt(5)) / 2
    start = torch.rand((), generator=generator(*parts), dtype=torch.float64)
    numbers = (start + phi * torch.tensor(positions, dtype=torch.float64)) % 1
    return numbers.float().clamp(max=1 - 2**-24)  # the largest number of float32 below 1
