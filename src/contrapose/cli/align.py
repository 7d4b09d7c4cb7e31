"""`contrapose align METHOD` and `contrapose align run.yaml`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from contrapose import runfile
from contrapose.cli.options import REQUIRED, choice, parse
from contrapose.cli.progress import follow, quiet_libraries
from contrapose.errors import UserError
from contrapose.methods import METHODS
from contrapose.processes import rank
from contrapose.publish.card import finish
from contrapose.publish.hub import check_access, publish
from contrapose.train.align import align_stage
from contrapose.train.settings import CONVERTER, LINKS, Run
from contrapose.train.stages import stages


@dataclass(frozen=True)
class Command:
    """Align a model with one method on a folder of pairs."""

    run: Run
    out: Path
    """Folder that receives run.yaml, metrics, checkpoints and weights; an unfinished one is carried on."""
    push_to_hub: str | None = None
    """Hub repository, user/name, that the finished run is uploaded to; a new one is private."""


def main(arguments: list[str], prog: str) -> None:
    if not arguments or arguments[0].startswith("-"):
        known = ", ".join(METHODS)
        if arguments and arguments[0] in ("-h", "--help"):
            print(
                f"usage: {prog} METHOD|run.yaml [options]\nmethods: {known}\n'{prog} METHOD --help' tells the options"
            )
            return
        raise UserError(f"align needs a method ({known}) or a run.yaml first")
    what, rest = arguments[0], arguments[1:]
    if what.endswith((".yaml", ".yml")):
        run = runfile.read(Path(what), Run, CONVERTER)
    else:
        run, rest = _from_method(what, rest)
    align(parse(Command, rest, f"{prog} {what}", Command(run, out=REQUIRED), short=True))


def _from_method(name: str, rest: list[str]) -> tuple[Run, list[str]]:
    if name not in METHODS:
        raise UserError(f"{name}: no such method (known: {', '.join(METHODS)})")
    method = METHODS[name]
    settings = {}
    if "link" in method.__dataclass_fields__:
        link, rest = choice(rest, "--link", LINKS, "sigmoid")
        settings["link"] = link()
    return Run(model=REQUIRED, pairs=REQUIRED, method=method(**settings)), rest


def align(command: Command) -> None:
    quiet_libraries()
    if command.push_to_hub:
        check_access(command.push_to_hub)  # before hours of training, not after
    for stage in stages(command.run.resolved(), command.out):
        follow(stage.title, stage.run.optimisation.steps, align_stage(stage))
        if rank() == 0:
            finish(stage.folder)
    if command.push_to_hub:
        print(f"uploaded to {publish(command.out, command.push_to_hub)}")
