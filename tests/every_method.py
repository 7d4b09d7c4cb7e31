"""Every method there is, at settings by which a few steps on a tiny network take a moment: tables that none can miss.

A new method is a row of each test that goes through these by being registered, with the flags that its composition
asks for. The suite has every method once with LoRA or in full, by turns; `-m exhaustive` has all of both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from contrapose.cli.align import UNIONS, Command, begun
from contrapose.cli.options import parse
from contrapose.core.walks import Inversion
from contrapose.methods import METHODS
from contrapose.train.settings import Run

NAMES = tuple(METHODS)
_DRAWING = ("--rollout-steps", "2", "--rollouts", "2", "--states", "1", "--buffer", "2")
_OWN_GROUPS = (
    "--samples-per-prompt", "2", "--prompts-per-draw", "2", "--buffer", "2", "--rollout-steps", "1",
    "--rollout-judges", "colourfulness",
)  # fmt: skip


def flags(name: str) -> tuple[str, ...]:
    """Options of `align` with which a method takes any pairs, and few forwards."""
    method = METHODS[name]()
    composition = method.composition()
    options: tuple[str, ...] = ()
    if any(each.composition().on_policy for each in (method, *method.before.values())):
        options += _DRAWING
    if composition.own_groups:
        options += _OWN_GROUPS
    if len(composition.samples) > 2:
        # of a list a pair is the shortest
        options += ("--num-samples", "2")
    if isinstance(method.objective().walk, Inversion):
        options += ("--inversion-steps", "2")
    return options


def trainee(full: bool) -> tuple[str, ...]:
    """What is trained: the network in full, or small adapters."""
    return ("--full",) if full else ("--lora-rank", "4")


def run_of(name: str, model: Path, pairs: Path, *options: object) -> Run:
    """The run that `contrapose align NAME` makes of these and the method's own flags."""
    words = ["--model", model, "--pairs", pairs, "--out", "out", *flags(name), *options]
    return parse(Command, [str(word) for word in words], "align", Command(begun(name), out=Path("out")), UNIONS).run


def by_turns() -> Iterator[object]:
    """Parameters (name, full): each method with LoRA or in full by turns, and the other of both marked exhaustive."""
    for number, name in enumerate(NAMES):
        for full in (False, True):
            marks = [] if full == bool(number % 2) else [pytest.mark.exhaustive]
            yield pytest.param(name, full, marks=marks, id=f"{name}-{'full' if full else 'lora'}")


def by_turns_with(entries: Sequence[str]) -> Iterator[object]:
    """Parameters (name, full, entry): each method with LoRA on one entry and in full on another, by turns.

    All others of their combinations are marked exhaustive.
    """
    for number, name in enumerate(NAMES):
        # half of the way round from each other, so that no entry has one kind alone
        turns = {False: entries[number % len(entries)], True: entries[(number + len(entries) // 2) % len(entries)]}
        for full in (False, True):
            for entry in entries:
                marks = [] if entry == turns[full] else [pytest.mark.exhaustive]
                yield pytest.param(name, full, entry, marks=marks, id=f"{entry}-{name}-{'full' if full else 'lora'}")
