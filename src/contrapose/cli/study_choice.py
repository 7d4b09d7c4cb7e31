"""`contrapose study choice`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from contrapose.cli.options import parse
from contrapose.core.guidance import FreeScale
from contrapose.ranges import checked


@dataclass(frozen=True)
@checked
class Command:
    """Print the guidance scale or the checkpoint that was chosen for a model on the dev prompts."""

    file: Annotated[Path, tyro.conf.Positional]
    """File of the study (.yaml)."""
    model: Annotated[str, tyro.conf.Positional]
    """A model by its name in the study: base, one of its methods, or a guided one with its strength, such as pgd-w2."""
    what: Annotated[Literal["scale", "checkpoint"], tyro.conf.Positional] = "scale"
    """What was chosen of the two: the guidance scale, or the checkpoint."""
    at: FreeScale | None = None
    """The checkpoint at this guidance scale rather than at the model's own."""


def main(arguments: list[str], prog: str) -> None:
    tell(parse(Command, arguments, prog))


def tell(command: Command) -> None:
    from contrapose.errors import UserError
    from contrapose.studies.choosing import DevChoices
    from contrapose.studies.settings import read_study

    measured = DevChoices(read_study(command.file))
    if command.what == "scale":
        print(measured.best(command.model).scale)
        return
    at_own = command.at is None
    step = measured.best(command.model).checkpoint if at_own else measured.checkpoint(command.model, f"{command.at:g}")
    if not step:
        raise UserError(f"{command.model}: has no checkpoint to choose")
    print(step)
