"""`contrapose shapes pretrain`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from contrapose.cli.follow import follow
from contrapose.cli.options import parse
from contrapose.worlds.shapes.settings import Pretraining


@dataclass(frozen=True)
class Command:
    """Train a shapes model, from nothing or from another one; run it again to carry on. It takes hours of a core."""

    settings: Pretraining
    out: Path
    """Folder that receives the model and the work in progress."""


def main(arguments: list[str], prog: str) -> None:
    pretrain(parse(Command, arguments, prog))


def pretrain(command: Command) -> None:
    from contrapose.cli.notes import quiet_libraries
    from contrapose.worlds.shapes.pretrain import pretrain_shapes

    quiet_libraries()
    for phase in pretrain_shapes(command.settings, command.out):
        follow(phase.title, phase.total, phase.states)
