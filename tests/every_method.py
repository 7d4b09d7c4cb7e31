"""Every method there is, at settings by which a few steps on a tiny network take a moment: tables that none can miss.

A new method is a row of each test that goes through these by being registered, with the flags that its composition
asks for. The suite has every method once with LoRA or in full, by turns; `-m exhaustive` has all of both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import pytest

from contrapose.cli.align import UNIONS, Command, begun
from contrapose.cli.options import parse
from contrapose.core.group import OwnSteps
from contrapose.methods import METHODS
from contrapose.train.settings import Run

NAMES = tuple(METHODS)
QUICK = {
    # of lists and groups a pair is the shortest
    "num_samples": 2, "samples_per_prompt": 2, "candidates": 2,
    "inversion_steps": 2, "rollout_steps": 2, "rollouts": 2, "states": 1, "first_fork": 0, "prompts_per_draw": 2,
    "buffer": 2, "tie_margin": 0,
}  # fmt: skip
"""What the settings are that many forwards of a method come from, wherever they have these names."""


def flags(name: str) -> tuple[str, ...]:
    """Options of `align` with which a method takes any pairs, and few forwards."""
    method = METHODS[name]()
    options: list[str] = []
    for setting in dict.fromkeys(_settings(method)):
        if setting in QUICK:
            options += [f"--{setting.replace('_', '-')}", str(QUICK[setting])]
    if draws_groups(name):
        options += ["--rollout-judges", "colourfulness"]
    return tuple(options)


def _settings(settings: Any) -> Iterator[str]:
    """The names of all settings, those of settings within them too."""
    for name, value in vars(settings).items():
        yield name
        if is_dataclass(value):
            yield from _settings(value)


def draws_groups(name: str) -> bool:
    """Whether the model draws all that a method compares, at a size that can be set."""
    return METHODS[name]().composition().own_groups is not None


def drops_captions(name: str) -> bool:
    """Whether comparisons may be made without their prompt.

    A step of a sampler is learnt as it was taken, and two prompts of one image are alike where both are left out.
    """
    method = METHODS[name]()
    return not (isinstance(method.composition().own_groups, OwnSteps) or method.objective().compares_prompts)


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
