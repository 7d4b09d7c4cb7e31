"""`contrapose shapes photos`."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image

from contrapose import runfile
from contrapose.cli.options import parse
from contrapose.cli.progress import follow
from contrapose.files import check_folder, one_writer, write_bytes, write_text
from contrapose.ranges import Count, Seed, checked
from contrapose.worlds.shapes.photos import photographs


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
    check_folder(command.out)
    made_with = {name: value for name, value in asdict(command).items() if name != "out"}
    with one_writer(command.out):
        runfile.claim(command.out / "photos.yaml", made_with, runfile.converter())
        # Counted before, since all are written again: one that was changed is put right.
        before = set(command.out.glob("*.png"))
        follow("rendering photographs", command.num_photos, _written(command))
    if len(before) == command.num_photos:
        print(f"{command.out}: {command.num_photos} photographs were there already")


def _written(command: Command) -> Iterator[int]:
    """Write the photographs that are not there, or are there but are others; yields how many are done."""
    for number, photo in enumerate(photographs(command.num_photos, command.seed)):
        image = io.BytesIO()
        Image.fromarray(photo.image).save(image, format="PNG")
        write_bytes(command.out / f"{number:06}.png", image.getvalue())
        write_text(command.out / f"{number:06}.txt", f"{photo.caption}\n")
        yield number + 1
