"""Sample images into GenEval's folder layout: `00000/metadata.jsonl`, `00000/samples/0000.png`, ...

Jobs (prompt, seed) are cut into fixed chunks, and a chunk is drawn again unless all of its images are complete, so that
a run that was killed and continued has the same images as one that was not, and so have several processes that share a
folder. Each says what it is (`inscription`).

Of the best of n, image m of a prompt is one of the images of seeds m n to m n + n - 1, the same as when it is drawn by
itself. `00000/samples/0000.json` tells which: its seed, and the scores of all n by name.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from contrapose import runfile
from contrapose.backbones.base import Backbone
from contrapose.backbones.digests import model_digest
from contrapose.backbones.embeddings import Embeddings
from contrapose.backbones.generation import Generation
from contrapose.core.group import Condition
from contrapose.errors import UserError
from contrapose.files import replacing, write_text
from contrapose.guiding.choosing import Chooser
from contrapose.guiding.guided import guided, settled, unprompted
from contrapose.guiding.inscription import Inscription
from contrapose.guiding.settings import CONVERTER, Sampling
from contrapose.runs.folder import RunFolder
from contrapose.seeds import generator, starting_noise
from contrapose.store.named_prompts import digest_of_named, named_prompts
from contrapose.store.prompts import Prompt
from contrapose.workers import ALONE, Worker

SETTINGS = "images.yaml"
log = logging.getLogger(__name__)


class Job(NamedTuple):
    """One image to make."""

    prompt: str
    seed: int
    path: Path


def jobs(prompts: Sequence[Prompt], seeds: int, out: Path) -> list[Job]:
    """The images to make, prompt by prompt, with seeds 0, 1, ... of each."""
    return [
        Job(prompt.text, seed, out / f"{number:05d}" / "samples" / f"{seed:04d}.png")
        for number, prompt in enumerate(prompts)
        for seed in range(seeds)
    ]


def sample_images(
    settings: Sampling, backbone: Backbone, out: Path, chooser: Chooser | None = None, worker: Worker = ALONE
) -> Iterator[int]:
    """Sample every image into `out`, yielding the number of images done so far; run it again to carry on.

    Several workers sample into a folder together, each the chunks that no other one has. Where the settings draw
    several for each that is kept, the `chooser` says which. Raises `UserError` if `out` holds images of other settings
    or another chooser, for a size that the model cannot make, and where nobody chooses.
    """
    if (settings.best_of > 1) != (chooser is not None):
        raise UserError("best_of and judges go together: name judges and a best_of above 1, or neither")
    settings = settled(settings, backbone)
    shape = backbone.images.shape_for(settings.size)
    prompts = named_prompts(settings.prompts)
    embeddings = Embeddings(backbone.text)
    # the folder is claimed last, so that settings that are refused leave no folder behind
    with worker.writing(out), guided(settings.guiding, backbone, embeddings):
        inputs = inputs_of(settings)
        inscription = Inscription(CONVERTER.unstructure(settings), backbone.sampler.scheduler, inputs)
        if chooser is not None:
            inputs = {**inputs, "judges": chooser.version}
        with worker.in_turn(out / SETTINGS):
            runfile.claim(out / SETTINGS, settings, CONVERTER, inputs=inputs, results=["[0-9]*/samples"])
            if chooser is not None:
                chooser.sign(out)
            describe(prompts, out)
        todo = jobs(prompts, settings.num_images, out)
        # so many that their candidates make a batch; the candidates of one may take several batches
        at_once = max(1, settings.batch_size // settings.best_of)
        starts = range(0, len(todo), at_once)
        # a chunk is claimed by its first image
        chunks = [(todo[first].path, (first, todo[first : first + at_once])) for first in starts]
        missing = False
        done = 0
        for _, (first, chunk), task in worker.turns(chunks, partial(_are_complete, chooser is not None)):
            # the whole chunk, since an image differs by rounding when it is drawn in a batch of another size
            if task == "make":
                missing = True
                candidates = _candidates(chunk, settings.best_of)
                images: list[Image.Image] = []
                for start in range(0, len(candidates), settings.batch_size):
                    batch = candidates[start : start + settings.batch_size]
                    condition = embeddings([job.prompt for job in batch])
                    unconditional = unprompted(settings.guiding, backbone, embeddings)
                    images += _sample_chunk(settings, backbone, condition, unconditional, batch, shape)
                for place, job in enumerate(chunk):
                    of_job = slice(place * settings.best_of, (place + 1) * settings.best_of)
                    prompt = prompts[(first + place) // settings.num_images]
                    kept = _keep(candidates[of_job], images[of_job], prompt, job.path, chooser)
                    image = images[of_job][kept]
                    seed = candidates[of_job][kept].seed
                    with replacing(job.path) as aside:
                        image.save(aside, format="PNG", pnginfo=inscription.of(job.prompt, seed, image.size))
            done += len(chunk)
            yield done
        if not missing and all(job.path.exists() for job in todo):
            log.info(f"{out}: all images were there already")


def _candidates(chunk: Sequence[Job], best_of: int) -> list[Job]:
    """The images to draw for those that are kept: so many for each, of seeds of their own."""
    candidates: list[Job] = []
    for job in chunk:
        candidates += [job._replace(seed=job.seed * best_of + number) for number in range(best_of)]
    return candidates


def _keep(
    candidates: Sequence[Job], images: Sequence[Image.Image], prompt: Prompt, path: Path, chooser: Chooser | None
) -> int:
    """Which of an image's candidates is kept; the choice is written down beside where the image will lie."""
    if chooser is None:
        return 0
    kept = chooser(images, prompt)
    seeds = [candidate.seed for candidate in candidates]
    choice = {"seed": seeds[kept.place], "seeds": seeds, "scores": dict(kept.scores)}
    # before the image itself, whose being there says that all of it is
    write_text(path.with_suffix(".json"), json.dumps(choice, indent=1) + "\n")
    return kept.place


def inputs_of(settings: Sampling) -> dict[str, str]:
    """Digests of the files and folders that the settings name, by setting; `UserError` for one that is missing."""
    inputs = {"model": model_digest(settings.model, settings.loading), "prompts": digest_of_named(settings.prompts)}
    guiding = settings.guiding
    runs = {"adapter": settings.adapter, "guiding.positive": guiding.positive, "guiding.negative": guiding.negative}
    for name, run in runs.items():
        if run is not None:
            inputs[name] = RunFolder(run).digest
    return inputs


def _are_complete(are_chosen: bool, _: Path, chunk: tuple[int, Sequence[Job]]) -> bool:
    """Whether all images of a chunk are there, by the first one's number and the jobs."""
    return all(_is_complete(job.path, are_chosen) for job in chunk[1])


def _is_complete(path: Path, is_chosen: bool) -> bool:
    """Whether an image file exists and is not cut off or damaged; a warning names one that is.

    Of one that was chosen, whether the choice is there as well.
    """
    choice = path.with_suffix(".json")
    if not path.exists() or (is_chosen and not choice.exists()):
        return False
    try:
        with Image.open(path, formats=["PNG"]) as image:
            image.verify()
        if is_chosen:
            json.loads(choice.read_bytes())
    # what Pillow raises for files that are cut or changed, and json for the choice
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        log.warning(f"{path}: is broken; sampled again")
        return False
    return True


def describe(prompts: Sequence[Prompt], out: Path) -> None:
    """Write each prompt beside its images; `UserError` if the folders hold images of other prompts."""
    lines = [json.dumps({"prompt": p.text, **p.fields}, ensure_ascii=False) + "\n" for p in prompts]
    paths = [out / f"{number:05d}" / "metadata.jsonl" for number in range(len(lines) + 1)]
    # all folders are looked at before the first is written; the one after the last must not exist either
    unwritten: list[tuple[Path, str]] = []
    for path, line in zip(paths, [*lines, None], strict=True):
        if not path.exists():
            if line is not None:
                unwritten.append((path, line))
        elif line is None or path.read_bytes() != line.encode():
            raise UserError(
                f"{path}: is not of the prompts file, so the folder already holds images of other prompts; choose "
                "another --out, or delete the folder"
            )
    for path, line in unwritten:
        with replacing(path) as aside:
            aside.write_text(line, encoding="utf-8")


def _sample_chunk(
    settings: Sampling,
    backbone: Backbone,
    condition: Condition,
    unconditional: Condition,
    chunk: Sequence[Job],
    shape: tuple[int, ...],
) -> list[Image.Image]:
    """Draw the images of a chunk, each from the noise of its prompt and seed alone."""
    # `settled` has put the model's usual values in
    assert settings.steps is not None and settings.guidance_scale is not None
    streams = [generator(job.prompt, job.seed) for job in chunk]
    noise = starting_noise(streams, shape)
    generation = Generation(condition, unconditional, noise, streams, settings.steps, settings.guidance_scale)
    images: list[Image.Image] = backbone.sampler.generate(generation, "pil")
    return images
