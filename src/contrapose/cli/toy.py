"""`contrapose toy`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from contrapose.cli.options import parse
from contrapose.worlds.gaussians.settings import Toy


@dataclass(frozen=True)
class Command:
    """The 2-D experiment: DDSPO, Diffusion-DPO or others on a few pairs of points, scored against known answers."""

    settings: Toy = field(default_factory=Toy)
    out: Path = Path("toy")
    """Folder that receives table.md, table.csv, table.json and toy.png; finished seeds are not run again."""


def main(arguments: list[str], prog: str) -> None:
    play_out(parse(Command, arguments, prog))


def play_out(command: Command) -> None:
    import torch

    from contrapose.cli.notes import quiet_libraries
    from contrapose.worlds.gaussians.outcome import rich_table
    from contrapose.worlds.gaussians.toy import run_toy

    quiet_libraries()
    # A second thread waits for the first at every operator of networks this small, and beside another busy process
    # for milliseconds each time: ten minutes instead of one.
    torch.set_num_threads(1)
    console = Console(stderr=True, highlight=False)
    result = run_toy(command.settings, command.out, console.print)
    Console().print(rich_table(result))
    print(command.out / "toy.png")
