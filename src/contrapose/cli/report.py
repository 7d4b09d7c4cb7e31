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
    pairs: Path | None = None
    """The pairs that the runs were trained on."""
    title: str = "Alignment report"
    """The page's title."""
    examples: CountOrNone = 12
    """Prompts of each evaluation shown with every model's image."""


def main(arguments: list[str], prog: str) -> None:
    report(parse(Command, arguments, prog))


def report(command: Command) -> None:
    from contrapose.evaluate.evidence import read_evidence
    from contrapose.report.page import Report, write_report

    if not (command.run or command.evidence):
        raise UserError("a report needs at least one --run or --evidence")
    evidence = tuple(read_evidence(folder) for folder in command.evidence)
    page = Report(command.title, command.run, evidence, command.pairs, command.examples)
    written = write_report(page, command.out)
    print(f"{command.out.resolve()}{'' if written else ' (was there already)'}")
