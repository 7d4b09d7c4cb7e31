"""What the shapes world gives as files: prompts of a split, and photographs with captions."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from contrapose import runfile
from contrapose.files import check_file, check_folder, one_writer, write_bytes, write_text
from contrapose.worlds.shapes.grammar import Split, prompts
from contrapose.worlds.shapes.photos import photographs


class WrittenPrompts(NamedTuple):
    """What a file of prompts holds."""

    num_prompts: int
    is_new: bool
    """Whether the file was written; False where the same was there already."""


def write_shapes_prompts(out: Path, split: Split = "train", per_tag: int = 48) -> WrittenPrompts:
    """Write a split's prompts of the shapes world to a .jsonl as GenEval's metadata lines, one a line.

    They are `per_tag` prompts of each of the six categories at most; no meaning stands in two of the splits train, dev
    and test. Raises `UserError` for a file that cannot be written.
    """
    check_file(out)
    lines = prompts(split, per_tag)
    with one_writer(out, beside=True):
        is_new = write_text(out, "".join(json.dumps(line) + "\n" for line in lines))
    return WrittenPrompts(len(lines), is_new)


def write_shapes_photos(out: Path, num_photos: int = 1000, seed: int = 0) -> Iterator[int]:
    """Write photographs of the shapes world, each with its caption in a .txt beside it, yielding the number done.

    They show what the training split asks for, and never what a prompt of dev or test does. All are written again, so
    that one that was changed is put right. Raises `UserError` for a folder that holds photographs of another number or
    seed.
    """
    check_folder(out)
    with one_writer(out):
        runfile.claim(out / "photos.yaml", {"num_photos": num_photos, "seed": seed}, runfile.converter())
        for number, photo in enumerate(photographs(num_photos, seed)):
            image = io.BytesIO()
            Image.fromarray(photo.image).save(image, format="PNG")
            write_bytes(out / f"{number:06}.png", image.getvalue())
            write_text(out / f"{number:06}.txt", f"{photo.caption}\n")
            yield number + 1
