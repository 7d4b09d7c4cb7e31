"""`contrapose pairs check`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from contrapose.backbones.families.table import prompt_reader
from contrapose.cli.notes import quiet_libraries
from contrapose.cli.options import parse
from contrapose.cli.progress import follow
from contrapose.errors import UserError
from contrapose.store.check import Findings, check
from contrapose.store.pairs import PairStore


@dataclass(frozen=True)
class Command:
    """Count the pairs and look for duplicates, missing files, NaNs, and prompts that the encoder would not finish."""

    pairs: Annotated[Path, tyro.conf.Positional]
    """Folder of pairs."""
    model: str | None = None
    """Model whose text encoder's reading length counts; the one that the pairs were made with when unset."""


def main(arguments: list[str], prog: str) -> None:
    command = parse(Command, arguments, prog)
    quiet_libraries()
    store = PairStore(command.pairs, complete=False)
    model = command.model or store.settings.get("model")
    too_long = prompt_reader(model) if model else None
    found: list[Findings] = []

    def counted():
        for state in check(store, too_long):
            if isinstance(state, Findings):
                found.append(state)
            else:
                yield state

    follow("checking pairs", 2 * len(store), counted())
    for line in found[0].lines():
        print(line)
    if found[0].problems:
        raise UserError(f"{command.pairs}: {len(found[0].problems)} kinds of problems, listed above")
