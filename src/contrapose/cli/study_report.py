"""`contrapose study report`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from contrapose.cli.options import parse


@dataclass(frozen=True)
class Command:
    """Write a finished study's page (report.html), its tables (tables.md, .tex, .csv) and what was chosen on dev
    prompts (choices.yaml) into its folder."""

    file: Annotated[Path, tyro.conf.Positional]
    """File of the study (.yaml)."""


def main(arguments: list[str], prog: str) -> None:
    report(parse(Command, arguments, prog))


def report(command: Command) -> None:
    from contrapose.studies.report import write_study_report
    from contrapose.studies.settings import read_study

    for path in write_study_report(read_study(command.file)):
        print(path.resolve())
