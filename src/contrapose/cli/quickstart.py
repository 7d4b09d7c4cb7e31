"""`contrapose quickstart`: the main job on the shipped shapes model, a study that ships with contrapose."""

from __future__ import annotations

from contrapose.cli.options import parse
from contrapose.files import check_folder, one_writer
from contrapose.studies.quickstart import Quickstart


def main(arguments: list[str], prog: str) -> None:
    start(parse(Quickstart, arguments, prog))


def start(settings: Quickstart) -> None:
    from contrapose.cli.study_lines import check_lines, perform, show_and_run
    from contrapose.studies.stages import report_line

    study = settings.study()
    check_folder(study.out)
    if settings.model:
        _check_model(settings.model)  # before the first command leaves a folder
    check_lines(study)
    with one_writer(study.out):
        perform(study)
        show_and_run(report_line(study).words)


def _check_model(model: str) -> None:
    """Raise `UserError` for a model that is not there."""
    from contrapose.backbones.families.table import BY_PIPELINE
    from contrapose.backbones.loading import find

    find(model, BY_PIPELINE)
