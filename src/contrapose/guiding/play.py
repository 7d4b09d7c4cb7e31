"""Playing with guidance: images of one prompt and seed with and without a run's guidance, and saving them.

The images are the ones that `contrapose sample` makes of the same prompt, seed and settings.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

from PIL import Image

from contrapose.backbones.base import Backbone
from contrapose.backbones.embeddings import Embeddings
from contrapose.backbones.generation import Generation
from contrapose.documents import dump_yaml
from contrapose.errors import UserError
from contrapose.files import one_writer, replacing
from contrapose.guiding.guide import guide
from contrapose.guiding.inscription import Inscription
from contrapose.guiding.settings import CONVERTER, Play
from contrapose.seeds import generator, starting_noise

KEPT = 64  # base images that are kept, so that moving the slider draws one image and not two
MOST_SAVED = 10_000
_SHOWN = 384  # pixels: images whose longer side is at most half of it are enlarged on the page
BASE = "base.png"
GUIDED = "guided.png"
SETTINGS = "settings.yaml"


class Drawn(NamedTuple):
    """The two images of one draw, and the settings that made them."""

    base: Image.Image
    guided: Image.Image
    settings: Mapping[str, Any]


class Player:
    """Draws a base image and a guided one at a time, however many pages ask.

    Raises `UserError` for a size that the model cannot make.
    """

    def __init__(self, settings: Play, backbone: Backbone):
        self.settings = backbone.sampler.with_usual(settings)
        self.backbone = backbone
        self._shape = backbone.images.shape_for(settings.size)
        self._embeddings = Embeddings(backbone.text)
        self._bases: OrderedDict[tuple[str, int], Image.Image] = OrderedDict()
        self._lock = Lock()  # guiding changes the pipeline for a while
        self._saving = Lock()

    @property
    def runs(self) -> dict[str, Path]:
        """The positive runs, named by the shortest ends of their paths that differ."""
        paths = dict.fromkeys(path.resolve() for path in self.settings.positive)
        depth = 1
        while len({path.parts[-depth:] for path in paths}) < len(paths):
            depth += 1
        return {str(Path(*path.parts[-depth:])): path for path in paths}

    def draw(self, prompt: str, seed: int, positive: str | None, scale: float) -> Drawn:
        """The base image and the guided image from the same noise; `positive` names one of `runs`.

        Raises `UserError` for an empty prompt, an unknown run, and settings that the guidance refuses.
        """
        if not prompt.strip():
            raise UserError("the prompt is empty; write what is to be seen")
        if positive is not None and positive not in self.runs:
            raise UserError(f"{positive}: no such run (known: {', '.join(self.runs)})")
        run = self.runs.get(positive or "")
        guidance = replace(self.settings.guidance, scale=scale)
        with self._lock:
            # guided before base: settings that the guidance refuses cost no image
            with guide(self.backbone.sampler.stock, run, self.settings.negative, guidance):
                guided = self._image(prompt, seed) if scale else None
            base = self._base(prompt, seed)
        settings = replace(self.settings, positive=(run,) if run else (), guidance=guidance)
        return Drawn(base, guided or base, {"prompt": prompt, "seed": seed, **CONVERTER.unstructure(settings)})

    def save(self, drawn: Drawn, out: Path) -> Path:
        """Write both images and their settings into a new folder `out/00001`, `out/00002`, ...; return the folder.

        Raises `UserError` if `out` holds `MOST_SAVED` folders, or while another process saves there.
        """
        with self._saving, one_writer(out):
            numbers = [int(path.name) for path in out.iterdir() if path.name.isdecimal()]
            if len(numbers) >= MOST_SAVED:
                raise UserError(f"{out}: holds {len(numbers)} saved images; choose another --out")
            folder = out / f"{1 + max(numbers, default=0):05d}"
            with replacing(folder) as aside:
                aside.mkdir()
                self._write(drawn, aside)
                (aside / SETTINGS).write_text(dump_yaml(dict(drawn.settings)), encoding="utf-8")
        return folder

    def _write(self, drawn: Drawn, folder: Path) -> None:
        """Write both images, each with what it says of itself; the base image is nobody's to guide."""
        settings = {key: value for key, value in drawn.settings.items() if key not in ("prompt", "seed")}
        alone = {key: value for key, value in settings.items() if key not in ("positive", "negative")}
        for name, image, said in ((BASE, drawn.base, alone), (GUIDED, drawn.guided, settings)):
            inscription = Inscription(said, self.backbone.sampler.scheduler)
            chunks = inscription.of(drawn.settings["prompt"], drawn.settings["seed"], image.size)
            image.save(folder / name, pnginfo=chunks)

    def _base(self, prompt: str, seed: int) -> Image.Image:
        """The base image, drawn once for each prompt and seed while it is among the last `KEPT`."""
        key = (prompt, seed)
        if key not in self._bases:
            self._bases[key] = self._image(prompt, seed)
        self._bases.move_to_end(key)
        while len(self._bases) > KEPT:
            self._bases.popitem(last=False)
        return self._bases[key]

    def _image(self, prompt: str, seed: int) -> Image.Image:
        """The image that the pipeline makes as it is now, guided or not."""
        steps = self.settings.steps
        scale = self.settings.guidance_scale
        assert steps is not None and scale is not None, "filled in by `with_usual`"
        streams = [generator(prompt, seed)]
        noise = starting_noise(streams, self._shape)
        condition = self._embeddings([prompt])
        unconditional = self._embeddings.unconditional()
        return self.backbone.sampler.generate(
            Generation(condition, unconditional, noise, streams, steps, scale), "pil"
        )[0]


def enlarged(image: Image.Image) -> Image.Image:
    """An image with each pixel as a square, as large as `_SHOWN` allows; large images stay as they are."""
    times = max(1, _SHOWN // max(image.size))
    return image.resize((times * image.width, times * image.height), Image.Resampling.NEAREST)
