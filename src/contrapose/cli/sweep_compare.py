"""`contrapose sweep --compare`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from contrapose.cli.options import parse


@dataclass(frozen=True)
class SweepComparison:
    """Draw several finished sweeps in one plot; those of one label become their mean and its band."""

    compare: tuple[Path, ...]
    """Finished sweeps; those of one label become their mean and its band."""
    out: Path
    """Folder that receives page.html and summary.json."""


def main(arguments: list[str], prog: str) -> None:
    compare(parse(SweepComparison, arguments, prog))


def compare(command: SweepComparison) -> None:
    from contrapose.files import check_folder
    from contrapose.report.sweep import read_sweeps, write_sweep_page

    check_folder(command.out)
    print(write_sweep_page(read_sweeps(command.compare), command.out).resolve())
