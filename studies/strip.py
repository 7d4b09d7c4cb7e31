"""A strip of images from folders of samples: one row a model, the first prompt of each category in a column.

    python studies/strip.py results/world/table-2/images/scale-3 \\
        --models base diffusion-dpo=diffusion-dpo-0 ddspo=ddspo-0 diffusion-kto=diffusion-kto-0 --out docs/shapes.png

A row is called what its folder is, or what stands before the =. The first image of each prompt is taken, so that
nothing is chosen by eye. README's picture is made so.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

SIDE = 160  # pixels of an image on the strip
GAP = 8
WORDS = 16  # characters of a prompt that fit above an image


def first_of_each_category(folder: Path, each: int) -> list[tuple[Path, str]]:
    """Folders of the first `each` prompts of each category, with their prompts."""
    taken: dict[str, list[tuple[Path, str]]] = {}
    for prompt in sorted(path for path in folder.iterdir() if (path / "metadata.jsonl").exists()):
        metadata = json.loads((prompt / "metadata.jsonl").read_text(encoding="utf-8"))
        of_category = taken.setdefault(metadata["tag"], [])
        if len(of_category) < each:
            of_category.append((prompt, metadata["prompt"]))
    return [entry for entries in taken.values() for entry in entries]


def lines_of(text: str) -> list[str]:
    """Lines of at most `WORDS` characters, broken between words."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if len(longer) <= WORDS:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def strip(folder: Path, models: list[str], each: int) -> Image.Image:
    """The picture; a model is FOLDER or LABEL=FOLDER."""
    folders = [folder / model.rpartition("=")[2] for model in models]
    labels = [model.partition("=")[0] for model in models]
    columns = first_of_each_category(folders[0], each)
    font = ImageFont.load_default(size=15)
    margin = max(120, int(max(map(font.getlength, labels))) + GAP)
    prompts = [lines_of(text) for _, text in columns]
    head = 20 * max(map(len, prompts)) + GAP
    size = (margin + len(columns) * (SIDE + GAP), head + len(models) * (SIDE + GAP))
    picture = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(picture)
    for column, lines in enumerate(prompts):
        left = margin + column * (SIDE + GAP)
        draw.text((left, 0), "\n".join(lines), fill="black", font=font)
        for row, model in enumerate(folders):
            top = head + row * (SIDE + GAP)
            path = model / columns[column][0].name / "samples" / "0000.png"
            with Image.open(path) as image:
                picture.paste(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.NEAREST), (left, top))
    for row, label in enumerate(labels):
        draw.text((0, head + row * (SIDE + GAP) + SIDE // 2 - 8), label, fill="black", font=font)
    return picture


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="folder of the models' folders of images")
    parser.add_argument("--models", nargs="+", required=True, help="which of them, in order: FOLDER or LABEL=FOLDER")
    parser.add_argument("--each", type=int, default=1, help="prompts of each category")
    parser.add_argument("--out", type=Path, required=True, help="the picture")
    settings = parser.parse_args()
    strip(settings.folder, settings.models, settings.each).save(settings.out, optimize=True)
