"""The contact sheet of a folder of sampled images: a few of them by lot, each under its prompt.

The page lies in the folder and shows the images that lie there too, at their full size when they are clicked: it costs
neither time nor space, and is the same bytes whenever it is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from contrapose.files import write_text
from contrapose.guiding.images import SETTINGS, Job
from contrapose.report.html import fill
from contrapose.report.provenance import settings_of
from contrapose.report.thumbnails import PIXEL_ART
from contrapose.workers import ALONE, Worker

CONTACT_SHEET = "contact.html"
NUM_IMAGES = 48
SEED = 0


class SheetImage(NamedTuple):
    """An image on the sheet, by its place below the folder."""

    path: str
    seed: int


class SheetRow(NamedTuple):
    """One prompt with its images."""

    prompt: str
    images: list[SheetImage]


def write_contact_sheet(
    out: Path, jobs: Sequence[Job], number: int = NUM_IMAGES, seed: int = SEED, worker: Worker = ALONE
) -> Path:
    """Write `contact.html` into a folder in which these jobs are done, and return its path.

    It shows `number` images at most, of other prompts as long as there are any. Every worker of a folder may write it,
    and writes the same.
    """
    with Image.open(jobs[0].path, formats=["PNG"]) as image:
        width, height = image.size
    rows = by_lot(out, jobs, number, seed)
    settings = settings_of(out)
    page = fill(
        "contact.html.j2",
        title=out.resolve().name,
        model=settings["model"],
        adapter=settings.get("adapter"),
        rows=rows,
        num_shown=sum(len(row.images) for row in rows),
        total=len(jobs),
        seed=seed,
        width=width,
        height=height,
        pixelated=max(width, height) <= PIXEL_ART,
        settings_file=(out / SETTINGS).read_text(encoding="utf-8"),
    )
    with worker.writing(out), worker.in_turn(out / CONTACT_SHEET):
        write_text(out / CONTACT_SHEET, page)
    return out / CONTACT_SHEET


def by_lot(out: Path, jobs: Sequence[Job], number: int, seed: int) -> list[SheetRow]:
    """Up to `number` jobs, in their order: as many prompts as possible, and of each as many images as there is room."""
    by_folder: dict[Path, list[Job]] = {}
    for job in jobs:
        by_folder.setdefault(job.path.parent, []).append(job)
    by_prompt = list(by_folder.values())
    each = max(1, number // len(by_prompt))
    random = np.random.default_rng(seed)
    chosen = sorted(random.permutation(len(by_prompt))[: number // each])
    rows = []
    for index in chosen:
        of_prompt = by_prompt[index]
        places = sorted(random.permutation(len(of_prompt))[:each])
        images = []
        for job in (of_prompt[place] for place in places):
            images.append(SheetImage(job.path.relative_to(out).as_posix(), job.seed))
        rows.append(SheetRow(of_prompt[0].prompt, images))
    return rows
