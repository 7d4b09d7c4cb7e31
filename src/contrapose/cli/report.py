"""`contrapose report`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from contrapose.cli.options import parse
from contrapose.errors import UserError
from contrapose.ranges import CountOrNone, checked


@dataclass(frozen=True)
@checked
class Command:
    """Write one self-contained HTML page: what was done, how training went, what came out."""

    out: Path
    """The page (.html)."""
    run: tuple[Path, ...] = ()
    """Folders of runs."""
    evidence: tuple[Path, ...] = ()
    """Folders made by 'contrapose evaluate'."""
    images: tuple[str, ...] = ()
    """NAME=FOLDER of each model's images, to show side by side as they are; those of --evidence are shown anyway."""
    pairs: Path | None = None
    """The pairs that the runs were trained on."""
    title: str = "Alignment report"
    """The page's title."""
    examples: CountOrNone = 12
    """Prompts of each evaluation, and of --images, shown with every model's image."""


def main(arguments: list[str], prog: str) -> None:
    report(parse(Command, arguments, prog))


def report(command: Command) -> None:
    from contrapose.cli.notes import quiet_libraries
    from contrapose.evaluate.evidence import read_evidence
    from contrapose.evaluate.named import named_folders
    from contrapose.report.page import Report, write_report

    quiet_libraries()
    if not (command.run or command.evidence or command.images):
        raise UserError("a report needs at least one --run, --evidence or --images")
    evidence = tuple(read_evidence(folder) for folder in command.evidence)
    images = named_folders(command.images)
    page = Report(command.title, command.run, evidence, images, command.pairs, command.examples)
    written = write_report(page, command.out)
    print(f"{command.out.resolve()}{'' if written else ' (was there already)'}")
