"""`contrapose quickstart`: the main job on the shipped shapes model, nothing but the other commands in a row."""

from __future__ import annotations

import shlex

from rich.console import Console

from contrapose.cli.options import parse
from contrapose.files import check_folder, one_writer
from contrapose.worlds.shapes.quickstart import Quickstart, commands


def main(arguments: list[str], prog: str) -> None:
    from contrapose.cli.main import run

    settings = parse(Quickstart, arguments, prog)
    check_folder(settings.out)
    if settings.model:
        _check_model(settings.model)  # before the first command leaves a folder
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    with one_writer(settings.out):
        for line in commands(settings):
            console.print(f"\n[bold]$ contrapose {shlex.join(line)}[/bold]")
            run(line)


def _check_model(model: str) -> None:
    """Raise `UserError` for a model that is not there."""
    from contrapose.backbones.families.table import BY_PIPELINE
    from contrapose.backbones.loading import find

    find(model, BY_PIPELINE)
