"""A study's command lines: all read before the first one is run, then run in order, each as it would be typed."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from contrapose.cli.reading import settings_of
from contrapose.errors import UserError
from contrapose.files import check_folder, one_writer
from contrapose.studies.choosing import DevChoices, Placeholders
from contrapose.studies.inputs import check_inputs, check_judged, check_steps, inputs_digest
from contrapose.studies.ledger import Ledger
from contrapose.studies.settings import Study
from contrapose.studies.stages import CommandLine, check_outs, fix_of, report_line, stages


def check_lines(study: Study) -> dict[CommandLine, Any]:
    """What each line is read into; raises `UserError` where its command refuses it, and for steps that no run keeps."""
    planned = list(stages(study, Placeholders(study)))
    check_outs(planned)
    read: dict[CommandLine, Any] = {}
    for line in dict.fromkeys(line for stage in planned for line in stage.lines):
        try:
            read[line] = settings_of(line.words)
        except UserError as error:
            raise UserError(f"contrapose {shlex.join(line.words)}: {error}{fix_of(study, line, error)}") from None
    check_steps(study, read)
    return read


def run_study(study: Study, report: Sequence[str] | None = None) -> None:
    """Run a whole experiment into its folder, each command line shown as it runs; run it again to carry on.

    What is done is left alone. At the end comes `report`, a command line, or else the page of runs and evaluations.
    Raises `UserError`, before anything is run, for command lines that their commands would refuse, for a model, pairs
    or prompts that cannot be read or judged, and for a folder that another command is writing.
    """
    check_folder(study.out)
    # all that can be wrong is told before hours of work
    read = check_lines(study)
    for line in check_inputs(study):
        print(line, file=sys.stderr)
    check_judged(study, read)
    with one_writer(study.out):
        choices = DevChoices(study)
        _perform(study, choices)
        _show_and_run(report_line(study, choices.tried).words if report is None else report)


def _perform(study: Study, choices: DevChoices) -> None:
    """Run what is missing, each command line shown as it runs."""
    ledger = Ledger(study.out, inputs_digest(study))
    num_done = 0
    seen: set[CommandLine] = set()
    for stage in stages(study, choices):
        for line in stage.lines:
            if line in seen:
                continue
            seen.add(line)
            if ledger.has(line):
                num_done += 1
                continue
            _show_and_run(line.words)
            ledger.note(line)
    if num_done:
        Console(stderr=True, highlight=False).print(f"{num_done} of {len(seen)} command lines were done already")


def _show_and_run(words: Sequence[str]) -> None:
    """Show a command line as it is typed, and run it."""
    from contrapose.cli.main import run

    console = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
    console.print(f"\n$ contrapose {shlex.join(words)}", style="bold")
    run(list(words))
