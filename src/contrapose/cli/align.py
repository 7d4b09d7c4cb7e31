"""`contrapose align METHOD` and `contrapose align run.yaml`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from contrapose.cli.align_usage import usage
from contrapose.cli.options import REQUIRED, Choice, parse
from contrapose.cli.push import upload
from contrapose.errors import UserError
from contrapose.methods import METHODS
from contrapose.recipes import recipe_names, settings_file
from contrapose.train.settings import ADAPTER_KINDS, GUARDS, IMAGE_JUDGES, LINKS, Run, read_run

UNIONS = {
    "link": Choice(LINKS),
    "guard": Choice(GUARDS, prefixed=True),
    "lora_kind": Choice(ADAPTER_KINDS),
    "judges": Choice(IMAGE_JUDGES, prefixed=True),
    "rollout_judges": Choice(IMAGE_JUDGES, prefixed=True),
}


@dataclass(frozen=True)
class Command:
    """Align a model with one method on a folder of pairs.

    It trains on accelerate's device, the fastest of this machine; 'accelerate launch -m contrapose align ...' chooses
    another, or shares the work over several processes.
    """

    run: Run
    out: Path
    """Folder that receives run.yaml, metrics, checkpoints and weights; an unfinished one is carried on."""
    push_to_hub: str | None = None
    """Hub repository, user/name, that the finished run is uploaded to; a new one is private."""


def main(arguments: list[str], prog: str) -> None:
    if arguments and arguments[0] in ("-h", "--help"):
        print(usage(prog))
        return
    if not arguments or arguments[0].startswith("-"):
        raise UserError(f"align needs a method ({', '.join(METHODS)}), a run.yaml or a recipe first")
    method, *rest = arguments
    template = Command(begun(method), out=REQUIRED)  # its values are what the help shows as defaults
    align(parse(Command, rest, f"{prog} {method}", template, UNIONS))


def begun(name: str) -> Run:
    """The run that a file or a recipe describes, or one of a method that lacks its model and pairs."""
    if name in METHODS:
        return Run(model=REQUIRED, pairs=REQUIRED, method=METHODS[name]())
    file = settings_file(name)
    if file is None:
        raise UserError(
            f"{name}: no such method or recipe (methods: {', '.join(METHODS)}; recipes: {', '.join(recipe_names())})"
        )
    return read_run(file)


def align(command: Command) -> None:
    from contrapose.cli.memory import follow_stage
    from contrapose.cli.notes import quiet_libraries
    from contrapose.processes import rank
    from contrapose.publish.card import finish_run, kind_of
    from contrapose.publish.hub import check_access
    from contrapose.train.align import align_stage
    from contrapose.train.folder import settled_stages

    quiet_libraries()
    if command.push_to_hub:
        check_access(command.push_to_hub, kind_of(command.run))  # before hours of training, not after
    for stage in settled_stages(command.run, command.out):
        follow_stage(stage, align_stage)
        if rank() == 0:
            finish_run(stage.folder)
    if command.push_to_hub and rank() == 0:
        upload(command.out, command.push_to_hub)
