"""A study's command lines: all read before the first one is run, then run in order, each as it would be typed."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from rich.console import Console

from contrapose.cli.reading import settings_of
from contrapose.errors import UserError
from contrapose.studies.choosing import DevChoices, Placeholders
from contrapose.studies.inputs import inputs_digest
from contrapose.studies.ledger import Ledger
from contrapose.studies.settings import Study
from contrapose.studies.stages import CommandLine, stages


def check_lines(study: Study) -> None:
    """Raise `UserError` for the first command line that its command would refuse, and for steps that no run keeps."""
    for stage in stages(study, Placeholders(study)):
        for line in dict.fromkeys(stage.lines):
            try:
                settings = settings_of(line.words)
            except UserError as error:
                raise UserError(f"contrapose {shlex.join(line.words)}: {error}") from None
            if line.words[0] == "align" and study.choosing:
                last = settings.run.optimisation.train_steps
                beyond = [step for step in study.choosing.checkpoints if step > last]
                if beyond:
                    raise UserError(f"choosing: checkpoints {beyond[0]} is beyond the {last} steps of training")


def perform(study: Study) -> None:
    """Run what is missing, each command line shown as it runs."""
    ledger = Ledger(study.out, inputs_digest(study))
    num_done = 0
    seen: set[CommandLine] = set()
    for stage in stages(study, DevChoices(study)):
        for line in stage.lines:
            if line in seen:
                continue
            seen.add(line)
            if ledger.has(line):
                num_done += 1
                continue
            show_and_run(line.words)
            ledger.note(line)
    if num_done:
        Console(stderr=True, highlight=False).print(f"{num_done} of {len(seen)} command lines were done already")


def show_and_run(words: Sequence[str]) -> None:
    """Show a command line as it is typed, and run it."""
    from contrapose.cli.main import run

    console = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
    console.print(f"\n$ contrapose {shlex.join(words)}", style="bold")
    run(list(words))
