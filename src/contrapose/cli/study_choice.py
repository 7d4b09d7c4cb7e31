"""`contrapose study choice`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from contrapose.cli.options import parse
from contrapose.core.guidance import FreeScale
from contrapose.ranges import checked


@dataclass(frozen=True)
@checked
class Command:
    """Print the guidance scale, the checkpoint or the tried setting that was chosen for a model on the dev prompts."""

    file: Annotated[Path, tyro.conf.Positional]
    """File of the study (.yaml)."""
    model: Annotated[str, tyro.conf.Positional]
    """A model by its name in the study: base, one of its methods, or a guided one with its strength, such as pgd-w2."""
    what: Annotated[str, tyro.conf.Positional] = "scale"
    """What was chosen: scale, the guidance scale; checkpoint; or an option of align that was tried, such as
    learning-rate."""
    at: FreeScale | None = None
    """The checkpoint at this guidance scale rather than at the model's own."""


def main(arguments: list[str], prog: str) -> None:
    tell(parse(Command, arguments, prog))


def tell(command: Command) -> None:
    from contrapose.errors import UserError
    from contrapose.studies.choosing import DevChoices
    from contrapose.studies.settings import read_study

    if command.at is not None and command.what != "checkpoint":
        raise UserError(f"at: is for a checkpoint, and not for {command.what}; leave it out")
    study = read_study(command.file)
    if study.choosing is None:
        raise UserError(
            f"{command.file}: chooses nothing, as all models are shown at its scales and at the ends of their runs; "
            "say under choosing what is chosen"
        )
    measured = DevChoices(study)
    if command.what == "scale":
        print(measured.best(command.model).scale)
        return
    if command.what != "checkpoint":
        tried = measured.tried(command.model).values
        if command.what not in tried:
            chosen = ["scale", *(["checkpoint"] if study.choosing.checkpoints else []), *tried]
            lacking = "" if tried else "; nothing is tried of it"
            raise UserError(
                f"{command.model}: no {command.what} was chosen for it{lacking} (known: {', '.join(chosen)})"
            )
        print(tried[command.what])
        return
    at_own = command.at is None
    step = measured.best(command.model).checkpoint if at_own else measured.checkpoint(command.model, f"{command.at:g}")
    if not step:
        raise UserError(f"{command.model}: has no checkpoint to choose")
    print(step)
