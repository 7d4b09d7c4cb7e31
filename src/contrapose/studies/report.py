"""A finished study's page and tables, with what was chosen and what others have published."""

from __future__ import annotations

from pathlib import Path

from contrapose.evaluate.evidence import read_evidence
from contrapose.report.forms import write_tables
from contrapose.report.page import Report, write_report
from contrapose.studies.choosing import CHOICES, DevChoices, write_choices
from contrapose.studies.settings import Study
from contrapose.studies.stages import all_evidence, all_runs, pairs_folder
from contrapose.studies.tables import study_sheets


def write_study_report(study: Study) -> list[Path]:
    """Write choices, tables and page into the study's folder; the paths of all, as they are there.

    Raises `UserError` naming what is missing of a study that is not finished.
    """
    evidence = tuple(read_evidence(folder) for folder in all_evidence(study))
    written: list[Path] = []
    choices = DevChoices(study)
    if study.choosing is not None:
        write_choices(choices, study.out / CHOICES)
        written.append(study.out / CHOICES)
    sheets = tuple(study_sheets(choices))
    judged = [each for each in evidence if each.is_judged]
    for name in ("tables.md", "tables.tex", "tables.csv"):
        path = study.out / name
        write_tables(judged, path, first=sheets)
        written.append(path)
    page = study.out / "report.html"
    pairs = pairs_folder(study, next(iter(study.pairs))) if len(study.pairs) == 1 else None
    runs = tuple(all_runs(study, choices.tried))
    write_report(Report(study.title, runs, evidence, pairs=pairs, sheets=sheets), page)
    return [*written, page]
