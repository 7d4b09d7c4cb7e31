"""Playing with guidance: one prompt and seed, with and without a run's guidance, and saving what is shown.

The images are those that `contrapose sample` makes of the same prompt, seed and settings.
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
from contrapose.guiding.settings import CONVERTER, Play
from contrapose.seeds import generator, starting_noise

KEPT = 64  # base images that are kept, so that moving the slider draws one image and not two
MOST_SAVED = 10_000
_LEAST = 384  # pixels of the longer side of what is shown
BASE, GUIDED, SETTINGS = "base.png", "guided.png", "settings.yaml"


class Drawn(NamedTuple):
    """What is shown, and the settings that made it."""

    base: Image.Image
    guided: Image.Image
    settings: Mapping[str, Any]


class Player:
    """Draws pairs of images, one at a time whoever asks.

    Raises `UserError` for a size that the model cannot make.
    """

    def __init__(self, settings: Play, backbone: Backbone):
        self.settings, self.backbone = backbone.with_usual(settings), backbone
        self._shape = backbone.shape_for(settings.size)
        self._embeddings = Embeddings(backbone)
        self._bases: OrderedDict[tuple[str, int], Image.Image] = OrderedDict()
        self._lock = Lock()  # guiding changes the pipeline for a while
        self._saving = Lock()

    @property
    def runs(self) -> dict[str, Path]:
        """The positive runs by the shortest of their paths' ends that tells them apart."""
        paths = dict.fromkeys(path.resolve() for path in self.settings.positive)
        depth = 1
        while len({path.parts[-depth:] for path in paths}) < len(paths):
            depth += 1
        return {str(Path(*path.parts[-depth:])): path for path in paths}

    def draw(self, prompt: str, seed: int, positive: str | None, scale: float) -> Drawn:
        """The base image and the guided one from the same noise; `positive` names one of `runs`.

        Raises `UserError` for an empty prompt, an unknown run, and settings that the guidance cannot take.
        """
        if not prompt.strip():
            raise UserError("the prompt is empty; write what is to be seen")
        if positive is not None and positive not in self.runs:
            raise UserError(f"{positive}: no such run (known: {', '.join(self.runs)})")
        run, negative = self.runs.get(positive or ""), self.settings.negative
        guidance = replace(self.settings.guidance, scale=scale)
        with self._lock:
            with guide(self.backbone.pipe, run, negative, guidance):  # its complaints first, before any image
                guided = self._image(prompt, seed) if scale else None
            base = self._base(prompt, seed)
        told = CONVERTER.unstructure(replace(self.settings, positive=(run,) if run else (), guidance=guidance))
        return Drawn(base, guided or base, {"prompt": prompt, "seed": seed, **told})

    def save(self, drawn: Drawn, out: Path) -> Path:
        """Write both images and their settings into a new folder `out/00001`, `out/00002`, ...; gives the folder.

        Raises `UserError` where as many were saved as may be, or while another process saves there.
        """
        with self._saving, one_writer(out):
            numbers = [int(path.name) for path in out.iterdir() if path.name.isdecimal()]
            if len(numbers) >= MOST_SAVED:
                raise UserError(f"{out}: holds {len(numbers)} saved images; choose another --out")
            folder = out / f"{1 + max(numbers, default=0):05d}"
            with replacing(folder) as aside:
                aside.mkdir()
                drawn.base.save(aside / BASE)
                drawn.guided.save(aside / GUIDED)
                (aside / SETTINGS).write_text(dump_yaml(dict(drawn.settings)), encoding="utf-8")
        return folder

    def _base(self, prompt: str, seed: int) -> Image.Image:
        key = (prompt, seed)
        if key not in self._bases:
            self._bases[key] = self._image(prompt, seed)
        self._bases.move_to_end(key)
        while len(self._bases) > KEPT:
            self._bases.popitem(last=False)
        return self._bases[key]

    def _image(self, prompt: str, seed: int) -> Image.Image:
        steps, scale = self.settings.steps, self.settings.guidance_scale
        assert steps is not None and scale is not None
        streams = [generator(prompt, seed)]
        noise = starting_noise(streams, self._shape)
        condition, unconditional = self._embeddings([prompt]), self._embeddings.unconditional()
        return self.backbone.generate(Generation(condition, unconditional, noise, streams, steps, scale), "pil")[0]


def enlarged(image: Image.Image) -> Image.Image:
    """Small images with each pixel as a square, to be seen at all."""
    times = max(1, _LEAST // max(image.size))
    return image.resize((times * image.width, times * image.height), Image.Resampling.NEAREST)
