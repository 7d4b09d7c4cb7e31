"""Which of several processes this is, as launchers such as torchrun and accelerate tell it in the environment."""

from __future__ import annotations

import os


def num_processes() -> int:
    """How many processes the launcher started; 1 without a launcher."""
    return _number("WORLD_SIZE", 1)


def rank() -> int:
    """The number of this process among them, from 0; the first one does the file work."""
    return _number("RANK", 0)


def _number(name: str, default: int) -> int:
    value = os.environ.get(name, "")
    return int(value) if value.isdecimal() else default
