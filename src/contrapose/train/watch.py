"""Images of the watched prompts while a run trains, and what judges say of them.

An image depends on the weights, its prompt and its seed alone: each is drawn by itself, from the noise that `contrapose
sample` draws it from, and by whichever process has its turn. What is drawn is what would be saved: the average of the
weights where there is one, in the precision of training.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate.utils import broadcast_object_list, gather_object
from PIL import Image

from contrapose.backbones.base import Backbone
from contrapose.backbones.generation import Generation
from contrapose.contents import digest_of_parts
from contrapose.core.group import Condition
from contrapose.evaluate.run import tag_of
from contrapose.files import replacing
from contrapose.guiding.images import describe, jobs
from contrapose.guiding.inscription import Inscription
from contrapose.judges.judge import Judge, Jury
from contrapose.methods import name_of
from contrapose.pixels import to_pixels
from contrapose.processes import shared_out
from contrapose.runs.metrics import JUDGED
from contrapose.runs.watched import About, Scored, read_about, watched_folder, write_about
from contrapose.seeds import generator, starting_noise
from contrapose.store.named_prompts import named_prompts
from contrapose.store.prompts import Prompt, read_prompts
from contrapose.train.best import means_of, spread
from contrapose.train.loop import Trainer
from contrapose.train.settings import Watching
from contrapose.train.trained import Trained
from contrapose.worlds.shapes.suite import Shapes

_AT_ONCE = 8  # images that are handed to the judges together


class WatchedImage(NamedTuple):
    """One image to draw."""

    prompt: Prompt
    seed: int
    is_kept: bool
    """Whether it is written down, or judged alone."""
    is_judged: bool


class WatchedFile(NamedTuple):
    """One image that was drawn: its place among those that were asked, its file if it is kept, and its scores."""

    place: int
    png: bytes
    scores: dict[str, float]


class Watched:
    """What is to be drawn and judged of a run.

    Raises `UserError` for a file of prompts that cannot be read, prompts that cannot be judged, and a size that the
    model cannot make or a guidance scale that it does not take.
    """

    def __init__(self, watching: Watching, backbone: Backbone):
        named = named_prompts(watching.prompts) if watching.prompts else []
        once: dict[str, Prompt] = {}
        for prompt in named:
            once.setdefault(prompt.text, prompt)
        self.prompts = list(once.values())
        self.dev_prompts = read_prompts(watching.dev_prompts) if watching.dev_prompts else self.prompts
        self.judges = watching.jury
        for judge in self.judges:
            if isinstance(judge, Shapes):
                judge.check(self.dev_prompts)
        self.shape = backbone.images.shape_for(watching.image_size)
        self.steps = watching.image_steps or backbone.sampler.steps
        self.guidance_scale = backbone.sampler.checked_scale(watching.image_guidance_scale)
        self.num_images = watching.num_images

    def asked(self) -> list[WatchedImage]:
        """The images of a step: those that are kept, and then those that are judged and are not among them."""
        is_shared = self.dev_prompts is self.prompts
        judged = bool(self.judges)
        images: list[WatchedImage] = []
        for prompt in self.prompts:
            images += [WatchedImage(prompt, seed, True, judged and is_shared) for seed in range(self.num_images)]
        if judged and not is_shared:
            for prompt in self.dev_prompts:
                images += [WatchedImage(prompt, seed, False, True) for seed in range(self.num_images)]
        return images

    def texts(self) -> list[str]:
        """All prompts that are read."""
        return list(dict.fromkeys(image.prompt.text for image in self.asked()))

    def drawn(self) -> dict[str, Any]:
        """All that decides a step's images beside the weights, and who judges them."""
        judges = [type(settings).__name__ for settings in self.judges]
        return {
            "images": digest_of_parts(f"{image.prompt.text} {image.seed} {image.is_kept}" for image in self.asked()),
            "steps": self.steps,
            "guidance_scale": self.guidance_scale,
            "shape": list(self.shape),
            "judges": judges,
        }


def jury_of(watching: Watching, device: str) -> Judge | None:
    """The judges as one, with their weights in memory for as long as the jury is; None where there is no judge.

    Raises `UserError` for a judge whose weights are missing.
    """
    if not watching.jury:
        return None
    return Jury([settings.load(device) for settings in watching.jury])


class Watcher:
    """Draws a run's watched images with what is being trained, and has them judged."""

    def __init__(
        self,
        out: Path,
        watched: Watched,
        backbone: Backbone,
        trainer: Trainer,
        trained: Trained,
    ):
        self.run = trainer.run
        self.out = out
        self.watched = watched
        self.backbone = backbone
        self.embeddings = trainer.groups.embeddings
        self.trainable = trainer.trainable
        self.trained = trained
        self.accelerator = trainer.accelerator

    def __call__(self, step: int) -> dict[str, float]:
        """Draw and judge a step unless it is there, and give what judges say of it; for all processes to call together.

        A metric is `judged/NAME`, with `judged/NAME/low` and `judged/NAME/high` around it: the 95 % interval over
        prompts, where there are several.
        """
        folder = watched_folder(self.out, step)
        # as the first process sees it, so that all draw or none
        (about,) = broadcast_object_list([read_about(folder)])
        if about is None or about.drawn != self.watched.drawn():
            about = self._watch(folder, step)
        numbers: dict[str, float] = {}
        for metric in about.scores:
            score = spread(means_of(about, metric))
            numbers[f"{JUDGED}{metric}"] = score.value
            if score.low is not None and score.high is not None:
                numbers[f"{JUDGED}{metric}/low"] = score.low
                numbers[f"{JUDGED}{metric}/high"] = score.high
        return numbers

    def _watch(self, folder: Path, step: int) -> About:
        """Draw and judge, each process its share; the first one writes."""
        asked = self.watched.asked()
        mine = dict(shared_out(range(len(asked)), self.accelerator.process_index, self.accelerator.num_processes))
        images: dict[int, Image.Image] = {}
        for (place, counts), image in zip(mine.items(), self._images([asked[place] for place in mine]), strict=True):
            if counts:
                images[place] = image
        jury = jury_of(self.run.watching, str(self.accelerator.device))
        scores = _scores(jury, images, asked) if jury is not None else {}
        inscription = self._inscription(step)
        drawn: list[WatchedFile] = []
        for place, image in images.items():
            png = io.BytesIO()
            if asked[place].is_kept:
                chunks = inscription.of(asked[place].prompt.text, asked[place].seed, image.size)
                image.save(png, format="PNG", pnginfo=chunks)
            drawn.append(WatchedFile(place, png.getvalue(), scores.get(place, {})))
        every = sorted(gather_object(drawn))
        about = self._about(jury, asked, every)
        if self.accelerator.is_main_process:
            self._write(folder, about, [image for image in every if asked[image.place].is_kept])
        self.accelerator.wait_for_everyone()
        return about

    def _images(self, asked: Sequence[WatchedImage]) -> Iterator[Image.Image]:
        """The images, with the network in evaluation and the autoencoder on the device while they are drawn."""
        policy = self.run.method.objective().trained[0]
        with self.trained.averaged(), self.trainable.sampled(policy):
            for image in asked:
                text = image.prompt.text
                stream = generator(text, image.seed)
                generation = Generation(
                    self._read(policy, text),
                    self._read(policy, None),
                    starting_noise([stream], self.watched.shape),
                    [stream],
                    self.watched.steps,
                    self.watched.guidance_scale,
                )
                with self.accelerator.autocast():
                    latents = self.backbone.sampler.generate(generation)
                # outside of autocast, which would take an autoencoder down to numbers that it leaves
                [pixels] = to_pixels(self.backbone.images.decode(latents))
                yield Image.fromarray(pixels)
        self.backbone.images.rest()

    @torch.no_grad()
    def _read(self, policy: str, prompt: str | None) -> Condition:
        """What the denoiser reads of a prompt, or of none; where text encoders are trained, by this policy's."""
        return self.trainable.read(policy, self.embeddings([prompt]))

    def _inscription(self, step: int) -> Inscription:
        settings = {
            "model": self.run.model,
            "method": name_of(self.run.method),
            "step": step,
            "steps": self.watched.steps,
            "guidance_scale": self.watched.guidance_scale,
            "precision": self.run.computes_in,
        }
        return Inscription(settings, self.backbone.sampler.scheduler)

    def _about(self, jury: Judge | None, asked: Sequence[WatchedImage], every: Sequence[WatchedFile]) -> About:
        judged = [image for image in every if image.scores]
        scores: dict[str, Scored] = {}
        if jury is not None:
            for metric, is_better in jury.higher_is_better.items():
                scores[metric] = Scored(is_better, jury.version, [image.scores[metric] for image in judged])
        prompts = [asked[image.place].prompt for image in judged]
        tags = [tag_of(prompt) for prompt in prompts]
        return About(self.watched.drawn(), [prompt.text for prompt in prompts], tags, scores)

    def _write(self, folder: Path, about: About, kept: Sequence[WatchedFile]) -> None:
        with replacing(folder) as aside:
            aside.mkdir()
            describe(self.watched.prompts, aside)
            for job, image in zip(jobs(self.watched.prompts, self.watched.num_images, aside), kept, strict=True):
                job.path.parent.mkdir(parents=True, exist_ok=True)
                job.path.write_bytes(image.png)
            write_about(aside, about)


def _scores(jury: Judge, images: dict[int, Image.Image], asked: Sequence[WatchedImage]) -> dict[int, dict[str, float]]:
    """What the judges say of each image that they are asked of, by its place."""
    scores: dict[int, dict[str, float]] = {}
    places = [place for place in images if asked[place].is_judged]
    for first in range(0, len(places), _AT_ONCE):
        batch = places[first : first + _AT_ONCE]
        prompts = [asked[place].prompt for place in batch]
        marks = jury([images[place] for place in batch], prompts)
        for number, place in enumerate(batch):
            scores[place] = {metric: float(marks[metric].values[number]) for metric in jury.higher_is_better}
    return scores
