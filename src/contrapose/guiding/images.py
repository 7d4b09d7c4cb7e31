"""Sample images into GenEval's folder layout: `00000/metadata.jsonl`, `00000/samples/0000.png`, ...

Jobs (prompt, seed) are cut into fixed chunks and a chunk is drawn again unless all of its images are there, so a run
that was killed ends with the very images of one that was not.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from contrapose import runfile
from contrapose.backbones.base import Backbone
from contrapose.backbones.digests import model_digest
from contrapose.backbones.embeddings import Embeddings
from contrapose.backbones.generation import Generation
from contrapose.containers.places import digest_at
from contrapose.core.group import Condition
from contrapose.errors import UserError
from contrapose.files import one_writer, replacing
from contrapose.guiding.guided import guided, settled, unprompted
from contrapose.guiding.settings import CONVERTER, Sampling
from contrapose.runs.folder import RunFolder
from contrapose.seeds import generator, starting_noise
from contrapose.store.prompts import Prompt, read_prompts

SETTINGS = "images.yaml"
log = logging.getLogger(__name__)


class Job(NamedTuple):
    """One image to make."""

    prompt: str
    seed: int
    path: Path


def jobs(prompts: Sequence[Prompt], seeds: int, out: Path) -> list[Job]:
    return [
        Job(prompt.text, seed, out / f"{number:05d}" / "samples" / f"{seed:04d}.png")
        for number, prompt in enumerate(prompts)
        for seed in range(seeds)
    ]


def sample_images(settings: Sampling, backbone: Backbone, out: Path) -> Iterator[int]:
    """Sample every image into `out`, yielding the number done so far; run it again to carry on.

    Raises `UserError` when `out` holds images of other settings, or for a size that the model cannot make.
    """
    settings = settled(settings, backbone)
    shape = backbone.shape_for(settings.size)
    prompts = read_prompts(settings.prompts)
    embeddings = Embeddings(backbone)
    # the folder is claimed last, so that settings that cannot be leave none behind
    with one_writer(out), guided(settings.guiding, backbone, embeddings):
        runfile.claim(out / SETTINGS, settings, CONVERTER, free=["batch_size"], inputs=inputs_of(settings))
        _describe(prompts, out)
        todo = jobs(prompts, settings.num_images, out)
        missing = False
        for first in range(0, len(todo), settings.batch_size):
            chunk = todo[first : first + settings.batch_size]
            if not all(_is_whole(job.path) for job in chunk):
                missing = True
                prompted = embeddings([job.prompt for job in chunk])
                bare = unprompted(settings.guiding, backbone, embeddings)
                _sample_chunk(settings, backbone, (prompted, bare), chunk, shape)
            yield first + len(chunk)
        if not missing:
            log.info(f"{out}: all images were there already")


def inputs_of(settings: Sampling) -> dict[str, str]:
    """Digests of all that the settings name, by the names of the settings; `UserError` for what is not there."""
    inputs = {"model": model_digest(settings.model, settings.loading), "prompts": digest_at(settings.prompts)}
    guiding = settings.guiding
    runs = {"adapter": settings.adapter, "guiding.positive": guiding.positive, "guiding.negative": guiding.negative}
    for name, run in runs.items():
        if run is not None:
            inputs[name] = RunFolder(run).digest
    return inputs


def _is_whole(path: Path) -> bool:
    """Whether an image is there to its last byte; one that is not is told of."""
    if not path.exists():
        return False
    try:
        with Image.open(path, formats=["PNG"]) as image:
            image.verify()
    # what Pillow raises for files that are cut or changed
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        log.warning(f"{path}: is broken; sampled again")
        return False
    return True


def _describe(prompts: Sequence[Prompt], out: Path) -> None:
    """Write what each folder's images show; `UserError` when the folders there were made for other prompts."""
    lines = [json.dumps({"prompt": p.text, **p.fields}, ensure_ascii=False) + "\n" for p in prompts]
    paths = [out / f"{number:05d}" / "metadata.jsonl" for number in range(len(lines) + 1)]
    there = [path.read_bytes() if path.exists() else None for path in paths]
    for path, line, old in zip(paths, [*lines, None], there, strict=True):
        if old is not None and (line is None or old != line.encode()):
            raise UserError(
                f"{path}: is not of the prompts file, so the folder already holds images of other prompts; choose "
                "another --out, or delete the folder"
            )
    for path, line, old in zip(paths, lines, there, strict=False):
        if old is None:
            with replacing(path) as aside:
                aside.write_text(line, encoding="utf-8")


def _sample_chunk(
    settings: Sampling,
    backbone: Backbone,
    conditions: tuple[Condition, Condition],
    chunk: Sequence[Job],
    shape: tuple[int, ...],
) -> None:
    assert settings.steps is not None and settings.guidance_scale is not None
    streams = [generator(job.prompt, job.seed) for job in chunk]
    noise = starting_noise(streams, shape)
    images = backbone.generate(Generation(*conditions, noise, streams, settings.steps, settings.guidance_scale), "pil")
    for job, image in zip(chunk, images, strict=True):
        with replacing(job.path) as aside:
            image.save(aside, format="PNG")
