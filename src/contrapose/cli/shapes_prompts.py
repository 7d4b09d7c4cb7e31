"""`contrapose shapes prompts`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from contrapose.cli.options import parse
from contrapose.files import replacing
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
    lines = prompts(command.split, command.per_tag)
    with replacing(command.out) as aside:
        aside.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    print(f"{command.out}: {len(lines)} {command.split} prompts")
