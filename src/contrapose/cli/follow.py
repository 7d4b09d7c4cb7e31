"""A bar over work that yields how far it is."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain, islice
from typing import Any

from contrapose.cli.progress import Bar

_NOTED = ("loss", "accuracy", "drift")  # of a training step's metrics


def follow(title: str, total: int, done: Iterable[Any], unit: str = "") -> None:
    """Draw a bar while an iterable yields how much is done (a number, or an object with `step` and `metrics`)."""
    with Bar(title, total, unit) as bar:
        for state in done:
            metrics = getattr(state, "metrics", {})
            notes = [f"{name} {metrics[name]:.3g}" for name in _NOTED if name in metrics]
            bar(getattr(state, "step", state), notes=notes)


def follow_once_begun(title: str, total: int, done: Iterable[Any], unit: str = "") -> None:
    """Draw a bar as `follow` does, but from what is yielded first on: what leads up to it may draw bars of its own."""
    states = iter(done)
    begun = list(islice(states, 1))
    follow(title, total, chain(begun, states), unit)
