"""Which scores count, and how much: NAME or NAME:WEIGHT, the sum being what samples are compared by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from contrapose.errors import UserError
from contrapose.judges.shown import check_metric_name
from contrapose.ranges import Number, check


def parsed_weights(setting: str, entries: Sequence[str]) -> dict[str, float | None]:
    """The scores' names with their weights, None where only the name is given; `setting` is where they are written.

    Raises `UserError` for what is neither, and for a name that is given twice.
    """
    weights: dict[str, float | None] = {}
    for entry in entries:
        name, colon, text = entry.partition(":")
        check_metric_name(setting, name)
        if name in weights:
            raise UserError(f"{setting}: {name} is named twice; give it one weight")
        weights[name] = _weight(setting, entry, text) if colon else None
    return weights


def settled_weights(
    setting: str, weights: Mapping[str, float | None], higher_is_better: Mapping[str, bool]
) -> dict[str, float]:
    """The weights, 1 for those that have none; `UserError` for one without of which less is better."""
    settled: dict[str, float] = {}
    for name, weight in weights.items():
        if weight is None and not higher_is_better.get(name, True):
            raise UserError(f"{setting}: less {name} is better, so give it a weight below 0, such as {name}:-1")
        settled[name] = 1.0 if weight is None else weight
    return settled


def _weight(setting: str, entry: str, text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        raise UserError(
            f"{setting}: {entry!r} is neither NAME nor NAME:WEIGHT; write correct:0.5, for example"
        ) from None
    check(f"{setting} {entry}: weight", weight, Number)
    return weight
