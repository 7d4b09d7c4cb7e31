"""`contrapose estimate [METHOD|run.yaml|recipe]`."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from contrapose.cli.align import UNIONS, begun
from contrapose.cli.options import parse
from contrapose.errors import UserError
from contrapose.estimate.settings import UNCOUNTED, Setup, Speed
from contrapose.methods import METHODS
from contrapose.ranges import Positive, checked

if TYPE_CHECKING:
    from contrapose.estimate.tables import CostTable


@dataclass(frozen=True)
@checked
class Command:
    """What a run would cost, from the model's configuration alone: parameters, GPU memory, FLOPs, hours and cards.

    A recipe, by its name or file, or a run.yaml may be named first, or a method (ddspo when neither is); options
    override what it says. The model may also be one of the shipped configurations that docs/estimate.md lists, such as
    sd15 or sdxl.
    """

    setup: Setup
    card: tuple[Positive, ...] = (12, 16, 24, 48, 80)
    """Gigabytes of GPU memory: whether the run fits, or what to change so that it does."""
    speed: Speed = field(default_factory=Speed)
    json: Path | None = None
    """File that receives the estimate as JSON."""


def main(arguments: list[str], prog: str) -> None:
    named = bool(arguments) and not arguments[0].startswith("-")
    run = begun(arguments[0] if named else "ddspo")
    run = replace(run, pairs=()) if not named or arguments[0] in METHODS else run
    template = Command(Setup(run))
    estimate(parse(Command, arguments[named:], prog, template, UNIONS, UNCOUNTED))


def estimate(command: Command) -> None:
    from contrapose.cli.notes import quiet_libraries
    from contrapose.estimate.estimate import estimate_run
    from contrapose.estimate.fitting import fit_card
    from contrapose.estimate.hours import duration, stage_times
    from contrapose.estimate.settings import sized
    from contrapose.estimate.tables import as_data, counts, memory
    from contrapose.files import replacing

    quiet_libraries()
    if command.json is not None and not command.json.parent.is_dir():
        raise UserError(f"{command.json}: its folder does not exist")
    setup = sized(command.setup)
    cost = estimate_run(setup)
    cards = [fit_card(setup, card) for card in command.card]
    times = stage_times(setup, command.speed)
    for table in (counts(cost), memory(cost)):
        _print(table)
    for card in cards:
        print(f"{card.card:g} GB: {card}")
    print(duration(setup, command.speed, times))
    if command.json is not None:
        with replacing(command.json) as aside:
            aside.write_text(json.dumps(as_data(cost, cards, times), indent=1) + "\n", encoding="utf-8")


def _print(table: CostTable) -> None:
    drawn = Table(*table.head, title=table.title)
    for row in table.rows:
        drawn.add_row(*row)
    Console(highlight=False).print(drawn)
