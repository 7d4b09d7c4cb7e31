"""`contrapose study plan`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from contrapose.cli.options import parse


@dataclass(frozen=True)
class Command:
    """Print a study's command lines for a shell or a scheduler: stage by stage, those of one stage independent."""

    file: Annotated[Path, tyro.conf.Positional]
    """File of the study (.yaml)."""


def main(arguments: list[str], prog: str) -> None:
    show(parse(Command, arguments, prog))


def show(command: Command) -> None:
    from contrapose.cli.study_lines import check_lines
    from contrapose.studies.settings import read_study
    from contrapose.studies.shell import plan_study

    study = read_study(command.file)
    check_lines(study)
    for line in plan_study(study, command.file):
        print(line)
