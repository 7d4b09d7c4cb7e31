"""Progress of a named piece of work, told to whoever shows it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

Progress = Callable[[str], AbstractContextManager[Callable[[int, int], None] | None]]
"""From the name of a piece of work to what is told (how much is done, how much there is) while it lasts."""


def untold(title: str) -> AbstractContextManager[None]:
    """Progress that nobody is told of."""
    return nullcontext()
