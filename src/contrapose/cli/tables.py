"""`contrapose tables`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from contrapose.cli.options import parse
from contrapose.ranges import checked


@dataclass(frozen=True)
@checked
class Command:
    """Write the numbers of evaluations as tables: models by metrics, against the base, and by category."""

    evidence: tuple[Path, ...]
    """Folders made by 'contrapose evaluate'."""
    out: Path
    """The file, whose ending (.md, .tex, .csv, .html) says in which form."""
    format: Literal["ending", "md", "latex", "csv", "html"] = "ending"
    """The form, where the ending of --out does not say: Markdown, LaTeX with booktabs, one line for each model, metric
    and category, or HTML."""


def main(arguments: list[str], prog: str) -> None:
    tables(parse(Command, arguments, prog))


def tables(command: Command) -> None:
    from contrapose.evaluate.evidence import read_evidence
    from contrapose.files import check_file
    from contrapose.report.forms import write_tables

    check_file(command.out)
    form = None if command.format == "ending" else command.format
    evidence = [read_evidence(folder) for folder in command.evidence]
    written = write_tables(evidence, command.out, form)
    print(f"{command.out.resolve()}{'' if written else ' (was there already)'}")
