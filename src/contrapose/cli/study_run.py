"""`contrapose study run`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from contrapose.cli.options import parse


@dataclass(frozen=True)
class Command:
    """Run a whole experiment from one file; what is done is left alone, and a stopped one is carried on."""

    file: Annotated[Path, tyro.conf.Positional]
    """File of the study (.yaml)."""


def main(arguments: list[str], prog: str) -> None:
    carry_out(parse(Command, arguments, prog))


def carry_out(command: Command) -> None:
    from contrapose.cli.study_lines import run_study
    from contrapose.studies.settings import read_study

    run_study(read_study(command.file), ["study", "report", str(command.file)])
