"""`contrapose shapes prompts`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from contrapose.cli.options import parse
from contrapose.ranges import Batch, checked
from contrapose.worlds.shapes.files import write_shapes_prompts
from contrapose.worlds.shapes.grammar import Split


@dataclass(frozen=True)
@checked
class Command:
    """Write prompts of the shapes world as GenEval metadata lines; no meaning stands in two splits."""

    out: Annotated[Path, tyro.conf.Positional]
    """File to write (.jsonl)."""
    split: Split = "train"
    """train to align on, dev to tune on, test to report on."""
    per_tag: Batch = 48
    """Prompts of each of the six categories, at most."""


def main(arguments: list[str], prog: str) -> None:
    write(parse(Command, arguments, prog))


def write(command: Command) -> None:
    written = write_shapes_prompts(command.out, command.split, command.per_tag)
    already = "" if written.is_new else " (were there already)"
    print(f"{command.out}: {written.num_prompts} {command.split} prompts{already}")
