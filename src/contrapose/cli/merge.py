"""`contrapose merge`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from contrapose.cli.options import parse
from contrapose.guiding.settings import Merge


@dataclass(frozen=True)
class Command:
    """Merge aligned runs into weights, base + scale (positive - negative): the first-order version of guidance.

    Runs of adapters give adapters, for 'contrapose sample --adapter OUT'. A run that was trained in full, or --full,
    gives a whole pipeline folder, for 'contrapose sample --model OUT'. Both load in stock diffusers, PixArt's adapters
    in peft. The nearer the runs are to the base, the nearer the merge is to guidance by them.
    """

    merge: Merge
    out: Path
    """Folder that receives the adapters, or is the pipeline folder; it must be new, empty, or the same merge."""


def main(arguments: list[str], prog: str) -> None:
    merge(parse(Command, arguments, prog))


def merge(command: Command) -> None:
    from contrapose.cli.notes import quiet_libraries
    from contrapose.guiding.merge import merge as merge_runs

    quiet_libraries()
    merged = merge_runs(command.merge, command.out)
    what, option = ("a whole pipeline", "--model") if merged.full else (f"adapters of rank {merged.rank}", "--adapter")
    kept = "exact" if command.merge.rank is None else f"{100 * merged.kept:.2f} % of the squared norm kept"
    already = " (was merged already)" if merged.already else ""
    print(f"{command.out}: {what}, {kept}, to be given as {option}{already}")
