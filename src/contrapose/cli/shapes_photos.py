"""`contrapose shapes photos`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image

from contrapose import runfile
from contrapose.cli.options import parse
from contrapose.cli.progress import follow
from contrapose.files import one_writer, replacing
from contrapose.ranges import Count, Seed, checked
from contrapose.worlds.shapes.photos import photographs


@dataclass(frozen=True)
@checked
class Command:
    """Write photographs of the shapes world, each with its caption beside it in a .txt, to make real pairs of.

    Their meanings are of the training split: none is asked for by dev or test prompts.
    """

    out: Path
    """Folder that receives them."""
    num: Count = 1000
    """Photographs."""
    seed: Seed = 0
    """Seed of meanings and scenes."""


def main(arguments: list[str], prog: str) -> None:
    write(parse(Command, arguments, prog))


def write(command: Command) -> None:
    made_with = {name: value for name, value in asdict(command).items() if name != "out"}

    def written():
        for number, photo in enumerate(photographs(command.num, command.seed)):
            with replacing(command.out / f"{number:06}.png") as aside:
                Image.fromarray(photo.image).save(aside, format="PNG")
            with replacing(command.out / f"{number:06}.txt") as aside:
                aside.write_text(f"{photo.caption}\n", encoding="utf-8")
            yield number + 1

    with one_writer(command.out):
        runfile.claim(command.out / "photos.yaml", made_with, runfile.converter())
        follow("rendering photographs", command.num, written())
