"""`contrapose shapes prompts`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from contrapose.cli.options import parse
from contrapose.files import check_file, one_writer, write_text
from contrapose.ranges import Batch, checked
from contrapose.worlds.shapes.grammar import Split, prompts


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
    check_file(command.out)
    lines = prompts(command.split, command.per_tag)
    with one_writer(command.out, beside=True):
        written = write_text(command.out, "".join(json.dumps(line) + "\n" for line in lines))
    print(f"{command.out}: {len(lines)} {command.split} prompts{'' if written else ' (were there already)'}")
