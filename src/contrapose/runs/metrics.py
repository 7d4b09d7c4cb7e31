"""A run's metrics: one line of JSON a step, with its number under `step`."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from contrapose.documents import json_lines
from contrapose.errors import UserError
from contrapose.files import appending, write_text

HELD_OUT = "held_out/"  # before the names of what is measured on held-out pairs
ROLLOUTS = "rollouts/"  # before the names of what is told of a method's own samples when they are drawn
JUDGED = "judged/"  # before the names of what judges say of a step's images
CLOCK = "seconds"
_FIX = "remove the line"
_MOST_STEPS = 10**9
_LARGEST = 3.5e38  # of a float32, in which a run measures


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The lines of a file of metrics as they stand; a last one that a kill cut short is left out.

    Values may be not a number or infinite, as a diverging run measures them. Raises `UserError` naming the file and the
    line for any other that is broken, or holds something else than a step and numbers.
    """
    if not path.exists():
        return []
    lines: list[dict[str, float]] = []
    num_read = 0
    try:
        for number, line in json_lines(path, _FIX):
            _check(line, f"{path}: line {number}")
            lines.append(line)
            num_read = number
    except UserError:
        # A broken line is a fault, but for the last one without an end: a kill cut it short.
        with path.open("rb") as file:
            num_ended = sum(line.endswith(b"\n") for line in file)
        if num_read < num_ended:
            raise
    return lines


def held_out_of(line: Mapping[str, float]) -> dict[str, float]:
    """What a line tells of the held-out pairs, overall; empty where nothing was measured."""
    return {name: value for name, value in line.items() if name.startswith(HELD_OUT) and "@" not in name}


def add_metrics(path: Path, step: int, metrics: Mapping[str, float]) -> None:
    """Add the line of a step."""
    with appending(path) as lines:
        lines.write(_line({"step": step, **metrics}))


def in_order(metrics: Mapping[str, float]) -> dict[str, float]:
    """A step's metrics in the order of a line: of the batch, on held-out pairs, by judges, and the clock."""
    ordered: dict[str, float] = {}
    for name in metrics:
        if not name.startswith((HELD_OUT, JUDGED, CLOCK)):
            ordered[name] = metrics[name]
    for kind in (HELD_OUT, JUDGED, CLOCK):
        ordered |= {name: value for name, value in metrics.items() if name.startswith(kind)}
    return ordered


def rewrite_metrics(path: Path, change: Callable[[dict[str, float]], dict[str, float] | None]) -> None:
    """Put what `change` makes of each line in its place; None drops it."""
    if not path.exists():
        return
    changed = [change(line) for line in read_metrics(path)]
    write_text(path, "".join(_line(line) for line in changed if line is not None))


def _line(metrics: Mapping[str, float]) -> str:
    return json.dumps(metrics) + "\n"


def _check(line: dict[str, Any], where: str) -> None:
    step = line.get("step")
    if type(step) is not int or not 0 <= step <= _MOST_STEPS:
        raise UserError(f"{where}: has no step; {_FIX}")
    for name, value in line.items():
        if type(value) not in (int, float) or (abs(value) > _LARGEST and value not in (math.inf, -math.inf)):
            raise UserError(f"{where}: {name} is not a number that a run measures; {_FIX}")
        if "@" in name and not _is_number(name.partition("@")[2]):
            raise UserError(f"{where}: {name} does not name a noise level; {_FIX}")


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
