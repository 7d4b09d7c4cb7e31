"""Lengths of time as one says them."""

from __future__ import annotations

from itertools import pairwise

_UNITS = (("day", 86400), ("hour", 3600), ("minute", 60), ("second", 1))


def in_words(seconds: float) -> str:
    """A length of time in its largest unit and the next one, which is rounded: 3 minutes 20 seconds."""
    short = float(f"{seconds:.3g}")
    if short < 60:
        return _counted(f"{short:g}", "second")
    left = round(seconds)
    for (unit, size), (smaller, smaller_size) in pairwise(_UNITS):
        whole_of_smaller = round(left / smaller_size)
        number, rest = divmod(whole_of_smaller, size // smaller_size)
        if number:
            words = _counted(str(number), unit)
            return f"{words} {_counted(str(rest), smaller)}" if rest else words
    raise AssertionError("a minute or more is of some unit")


def _counted(number: str, unit: str) -> str:
    return f"{number} {unit}" if number == "1" else f"{number} {unit}s"
