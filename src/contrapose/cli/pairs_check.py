"""`contrapose pairs check`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from contrapose.cli.options import parse
from contrapose.cli.progress import Bar
from contrapose.errors import UserError


@dataclass(frozen=True)
class Command:
    """Count pairs, likes and rankings, their labels and scores, and look for duplicates, missing files, NaNs, and
    prompts that the encoder would not finish."""

    pairs: Annotated[Path, tyro.conf.Positional]
    """Folder of pairs."""
    model: str | None = None
    """Model whose text encoder's reading length counts; the one that the pairs were made with when unset."""


def main(arguments: list[str], prog: str) -> None:
    count(parse(Command, arguments, prog))


def count(command: Command) -> None:
    from contrapose.backbones.families.table import prompt_reader
    from contrapose.cli.notes import quiet_libraries
    from contrapose.store.check import check_pairs
    from contrapose.store.groups import GroupStore

    quiet_libraries()
    store = GroupStore(command.pairs, complete=False)
    model = command.model or store.settings.get("model")
    too_long = prompt_reader(model) if model else None
    with Bar("checking pairs", len(store)) as bar:
        findings = check_pairs(store, too_long, bar)
    for line in findings.lines():
        print(line)
    if findings.problems:
        raise UserError(f"{command.pairs}: {len(findings.problems)} kinds of problems, listed above")
