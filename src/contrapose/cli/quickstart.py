"""`contrapose quickstart`: the main job on the shipped shapes model, a study that ships with contrapose."""

from __future__ import annotations

from contrapose.cli.options import parse
from contrapose.studies.quickstart import Quickstart


def main(arguments: list[str], prog: str) -> None:
    start(parse(Quickstart, arguments, prog))


def start(settings: Quickstart) -> None:
    from contrapose.cli.study_lines import run_study

    run_study(settings.study())
