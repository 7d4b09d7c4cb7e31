"""A bar over work that yields how far it is."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain, islice
from typing import Any

from contrapose.cli.progress import Bar

_NOTED = ("loss", "accuracy", "drift")  # of a training step's metrics


def follow(title: str, total: int, done: Iterable[Any], unit: str = "") -> None:
    """Draw a bar while an iterable yields how much is done (a number, or an object with `step` and `metrics`)."""
    states = iter(done)
    begun = list(islice(states, 1))  # what leads up to the beginning may draw bars of its own
    with Bar(title, total, unit) as bar:
        for state in chain(begun, states):
            metrics = getattr(state, "metrics", {})
            notes = [f"{name} {metrics[name]:.3g}" for name in _NOTED if name in metrics]
            bar(getattr(state, "step", state), notes=notes)
