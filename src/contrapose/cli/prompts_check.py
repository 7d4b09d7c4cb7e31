"""`contrapose prompts check`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from contrapose.cli.options import parse
from contrapose.errors import UserError


@dataclass(frozen=True)
class Command:
    """Read a list of prompts and count them by category, and those that repeat others or stand in another list too."""

    source: Annotated[Path, tyro.conf.Positional]
    """File or folder of prompts: GenEval's, T2I-CompBench's, PartiPrompts', HPSv2's, DrawBench, DPG's, COCO's captions,
    lines of text, or any table with a column of prompts."""
    against: tuple[Path, ...] = ()
    """Other lists, such as what is trained on, that none of these prompts may be in."""
    column: str | None = None
    """Field that holds the prompts; prompt, Prompt, caption and the like when unset."""


def main(arguments: list[str], prog: str) -> None:
    look(parse(Command, arguments, prog))


def look(command: Command) -> None:
    from contrapose.cli.notes import tell_notes
    from contrapose.store.prompts import Prompt, iter_listed
    from contrapose.store.splits import describe_prompts, shared_prompts

    tell_notes()

    def prompts(source: Path, column: str | None = None) -> Iterator[Prompt]:
        return (row for row in iter_listed(source, column) if isinstance(row, Prompt))

    for line in describe_prompts(prompts(command.source, command.column)):
        print(line)
    num_shared = 0
    for other in command.against:
        shared = shared_prompts(prompts(command.source, command.column), prompts(other))
        num_shared += len(shared)
        example = f", the first {shared[0].text!r}" if shared else ""
        print(f"{other}: has {len(shared)} of them{example}")
    if num_shared:
        raise UserError(f"{command.source}: {num_shared} prompts stand in other lists too; leave them out of one")
