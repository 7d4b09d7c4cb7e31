"""`contrapose shapes photos`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from contrapose.cli.follow import follow
from contrapose.cli.options import parse
from contrapose.ranges import Count, Seed, checked
from contrapose.worlds.shapes.files import write_shapes_photos


@dataclass(frozen=True)
@checked
class Command:
    """Write photographs of the shapes world, each with its caption beside it in a .txt, to make real pairs of.

    The scenes mean what the training split asks for, and never what a prompt of dev or test does.
    """

    out: Path
    """Folder that receives the photographs and their captions."""
    num_photos: Count = 1000
    """Photographs that are written."""
    seed: Seed = 0
    """Seed of meanings and scenes."""


def main(arguments: list[str], prog: str) -> None:
    write(parse(Command, arguments, prog))


def write(command: Command) -> None:
    # counted before, since all are written again
    num_before = len(list(command.out.glob("*.png")))
    photos = write_shapes_photos(command.out, command.num_photos, command.seed)
    follow("rendering photographs", command.num_photos, photos)
    if num_before == command.num_photos:
        print(f"{command.out}: {command.num_photos} photographs were there already")
