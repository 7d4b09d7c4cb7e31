"""`contrapose study run`."""

from __future__ import annotations

import sys
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
    from contrapose.cli.study_lines import check_lines, perform, show_and_run
    from contrapose.files import check_folder, one_writer
    from contrapose.studies.inputs import check_inputs
    from contrapose.studies.settings import read_study

    study = read_study(command.file)
    check_folder(study.out)
    # all that can be wrong is told before hours of work
    check_lines(study)
    for line in check_inputs(study):
        print(line, file=sys.stderr)
    with one_writer(study.out):
        perform(study)
        show_and_run(["study", "report", str(command.file)])
