"""Numbers as people read them: how many digits, which unit, which words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from contrapose.evaluate.statistics import Interval

MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Cell:
    """A value and its interval, written out."""

    value: str
    interval: str


@dataclass(frozen=True)
class Scale:
    """How one metric's numbers are written."""

    factor: float = 1.0
    decimals: int = 3
    unit: str = ""

    def text(self, value: float, signed: bool = False) -> str:
        """The number in the metric's unit, which is not written; with `signed`, a plus too."""
        sign = "+" if signed else ""
        return f"{value * self.factor:{sign}.{self.decimals}f}".replace("-", MINUS)

    def cell(self, interval: Interval, signed: bool = False) -> Cell:
        """A value with its interval, in the metric's unit."""
        low = self.text(interval.low, signed)
        high = self.text(interval.high, signed)
        return Cell(self.text(interval.value, signed), f"[{low}, {high}]")


PERCENT = Scale(100.0, 1, "%")


def scale_of(values: Iterable[float], intervals: Iterable[Interval]) -> Scale:
    """Percent for verdicts (all values 0 or 1); else as `supported` has it."""
    if all(value in (0.0, 1.0) for value in values):
        return PERCENT
    return supported(intervals)


def supported(intervals: Iterable[Interval]) -> Scale:
    """As many decimals as the narrowest interval supports."""
    widths = [i.high - i.low for i in intervals if i.high > i.low]
    # two digits of the width: an interval of 0.012 is written with three decimals
    decimals = 1 - math.floor(math.log10(min(widths))) if widths else 3
    return Scale(decimals=min(max(decimals, 1), 5))


def p_value(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def count(number: float) -> str:
    """1234567 -> 1,234,567; parts are kept only where there are any."""
    return f"{number:,.0f}" if float(number).is_integer() else f"{number:g}"


def listed(names: Sequence[str]) -> str:
    """a, b and c"""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def size(num_bytes: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.3g} GB"
