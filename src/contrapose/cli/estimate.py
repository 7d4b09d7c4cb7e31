"""`contrapose estimate`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from contrapose.cli.options import parse
from contrapose.errors import UserError
from contrapose.estimate.settings import Setup

if TYPE_CHECKING:
    from contrapose.estimate.tables import CostTable


@dataclass(frozen=True)
class Command:
    """What a run would cost, from the model's configuration alone: parameters, GPU memory, FLOPs, caches and cards."""

    setup: Setup
    json: Path | None = None
    """File that receives the estimate as JSON."""


def main(arguments: list[str], prog: str) -> None:
    estimate(parse(Command, arguments, prog))


def estimate(command: Command) -> None:
    from contrapose.cli.notes import quiet_libraries
    from contrapose.estimate.estimate import estimate_run
    from contrapose.estimate.fitting import CARDS, fit
    from contrapose.estimate.tables import as_data, counts, memory
    from contrapose.files import replacing

    quiet_libraries()
    if command.json is not None and not command.json.parent.is_dir():
        raise UserError(f"{command.json}: its folder does not exist")
    cost = estimate_run(command.setup)
    cards = [fit(command.setup, card) for card in CARDS]
    for table in (counts(cost), memory(cost)):
        _print(table)
    for card in cards:
        print(f"{card.card} GB: {card}")
    if command.json is not None:
        with replacing(command.json) as aside:
            aside.write_text(json.dumps(as_data(cost, cards), indent=1) + "\n", encoding="utf-8")


def _print(table: CostTable) -> None:
    drawn = Table(*table.head, title=table.title)
    for row in table.rows:
        drawn.add_row(*row)
    Console(highlight=False).print(drawn)
