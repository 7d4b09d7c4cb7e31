"""`contrapose ray`."""

from __future__ import annotations

import sys
from contextlib import closing
from dataclasses import dataclass
from functools import partial

from contrapose.cli.commands import find
from contrapose.cli.notes import tell
from contrapose.cli.options import parse
from contrapose.cli.started import OF_WORKERS
from contrapose.errors import UserError
from contrapose.ranges import Count, checked


@dataclass(frozen=True)
@checked
class Command:
    """Start a command on the machines of a Ray cluster, as workers that make the files of its --out together, each file
    by one of them. The command stands after two dashes: contrapose ray --resources GPU:1 -- pairs draw --model M ...
    Those that are lost with their machine are started again. All machines need one disk, and contrapose[ray]."""

    workers: Count | None = None
    """How many workers; as many as the machines that are up have room for when unset."""
    resources: tuple[str, ...] = ("GPU:1",)
    """What each worker takes of its machine, in Ray's names: GPU:1, GPU:0.5 (two on a GPU), CPU:4, or a name that
    machines were given, such as judge:1."""
    address: str = "auto"
    """HOST:6379 of the cluster; auto is the one that this machine is part of, or RAY_ADDRESS, and local one of this
    machine alone that ends with the command."""


def main(arguments: list[str], prog: str) -> None:
    end = arguments.index("--") if "--" in arguments else len(arguments)
    start(parse(Command, arguments[:end], prog), arguments[end + 1 :])


def start(command: Command, line: list[str]) -> None:
    """Let workers on Ray run a command line until its result is complete."""
    from contrapose.cli.main import run
    from contrapose.cli.ray_worker import run_as_worker
    from contrapose.cli.shared_bar import SharedBar
    from contrapose.on_ray import Crew, Remark, amounts, connected, num_places

    needs = amounts(command.resources)
    if not line:
        raise UserError("a command is wanted behind two dashes: contrapose ray -- pairs draw --model M ...")
    _, name, options = find(line)
    if name not in OF_WORKERS:
        raise UserError(f"{name}: is not shared by workers (for them are {', '.join(OF_WORKERS)})")
    if {"-h", "--help"} & set(options):
        run(line)
        return
    if not any(option.partition("=")[0] == "--part" for option in options):
        line = [*line, "--part", "1/1"]  # one worker alone, too, lets in the one that is started in its place
    with connected(command.address):
        places = num_places(needs)  # refused where there is none, however many are wanted
        num = command.workers or places
        workers = "1 worker" if num == 1 else f"{num} workers, each"
        tell(f"{name}: {workers} with {' '.join(command.resources)}")
        news = Crew(partial(run_as_worker, line), needs, num).work()
        with closing(news), SharedBar(num) as bar:
            for number, item in news:
                if isinstance(item, Remark):
                    print(item.text, file=getattr(sys, item.stream))
                else:
                    bar(number, item)
