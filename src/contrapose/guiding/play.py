"""Playing with guidance: images of a prompt with and without runs' guidance from the same noise, and saving them.

The images are the ones that `contrapose sample` makes of the same prompt, seeds and settings.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Annotated, Any, NamedTuple

from PIL import Image

from contrapose.backbones.base import Backbone
from contrapose.backbones.embeddings import Embeddings
from contrapose.backbones.generation import Generation
from contrapose.core.guidance import FreeScale, Strength
from contrapose.documents import dump_yaml
from contrapose.errors import UserError
from contrapose.files import one_writer, replacing
from contrapose.guiding.guided import guided, settled, unprompted
from contrapose.guiding.inscription import Inscription
from contrapose.guiding.settings import CONVERTER, Guiding, Play, Sampling
from contrapose.ranges import Range, Seed, Steps, checked
from contrapose.seeds import generator, starting_noise

KEPT = 64  # base images that are kept, so that moving the slider draws the guided images alone
MOST_SAVED = 10_000
MOST_IMAGES = 8  # of one column
MOST_RUNS = 2  # side by side
_SHOWN = 384  # pixels: images whose longer side is at most half of it are enlarged on the page
SETTINGS = "settings.yaml"
Progress = Callable[[int, int, str], None]
"""Told before each image: how many are done, of how many, and what is drawn now."""


@dataclass(frozen=True)
@checked
class Wish:
    """What is to be drawn: a column of the base, and one of each run, all with the same seeds."""

    prompt: str
    runs: tuple[str, ...] = ()
    """Names among the player's `runs`, two at most; none where a negative run guides alone."""
    scale: Strength = 1.0
    seed: Seed = 0
    """Of the first image; the others have those that follow."""
    num_images: Annotated[int, Range(1, MOST_IMAGES, integer=True)] = 1
    steps: Steps | None = None
    guidance_scale: FreeScale | None = None
    size: str | None = None
    negative_prompt: str = ""

    @property
    def seeds(self) -> range:
        return range(self.seed, self.seed + self.num_images)


class Drawn(NamedTuple):
    """The images of one wish: those of the base and of each run by seed, and the settings that made them."""

    base: tuple[Image.Image, ...]
    guided: dict[str, tuple[Image.Image, ...]]
    """By the run's name; of a negative run alone, by no name."""
    wish: Wish
    settings: Mapping[str, Any]


class Player:
    """Draws base images and guided ones, one wish at a time, however many pages ask.

    Each wish is drawn within what `memory` gives, which may tell what to do when it runs out. Raises `UserError` for a
    size that the model cannot make.
    """

    def __init__(
        self, settings: Play, backbone: Backbone, memory: Callable[[], AbstractContextManager[None]] = nullcontext
    ):
        self.settings = backbone.sampler.with_usual(settings)
        self.backbone = backbone
        backbone.images.shape_for(settings.size)
        self._memory = memory
        self._embeddings = Embeddings(backbone.text)
        self._bases: OrderedDict[tuple[Sampling, int], Image.Image] = OrderedDict()
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

    @property
    def usual_size(self) -> str:
        """The size of an image where none is asked for, as WIDTHxHEIGHT."""
        if self.settings.size is not None:
            return self.settings.size
        _, height, width = self.backbone.images.latent_shape
        unit = self.backbone.images.unit
        return f"{width * unit}x{height * unit}"

    def draw(self, wish: Wish, progress: Progress = lambda done, total, now: None) -> Drawn:
        """The base's images and the guided ones from the same noise.

        Raises `UserError` for an empty prompt, an unknown run, and settings that the guidance or the model refuses.
        """
        if not wish.prompt.strip():
            raise UserError("the prompt is empty; write what is to be seen")
        unknown = [name for name in wish.runs if name not in self.runs]
        if unknown:
            raise UserError(f"{unknown[0]}: no such run (known: {', '.join(self.runs)})")
        if len(wish.runs) > MOST_RUNS:
            raise UserError(f"{len(wish.runs)} runs: {MOST_RUNS} are drawn side by side at most")
        names = wish.runs or (("",) if self.settings.negative is not None else ())
        if not names:
            raise UserError("no run is chosen; choose one to guide towards")
        total = wish.num_images * (len(names) if wish.scale else 0)
        done = 0

        def tell(column: str, seed: int) -> None:
            nonlocal done
            progress(done, total, f"{column}, seed {seed}")
            done += 1

        columns: dict[str, tuple[Image.Image, ...]] = {}
        with self._lock, self._memory():
            # all settings first, and guided before base: what is refused costs no image
            asked = {name: settled(self._sampling(wish, name), self.backbone) for name in names}
            plain = settled(self._sampling(wish), self.backbone)
            total += sum((plain, seed) not in self._bases for seed in wish.seeds)
            for name, sampling in asked.items():
                with guided(sampling.guiding, self.backbone, self._embeddings):
                    images: list[Image.Image] = []
                    for seed in wish.seeds if wish.scale else ():
                        tell(name or "guided", seed)
                        images.append(self._image(sampling, seed))
                    columns[name] = tuple(images)
            base = tuple(self._bases_of(plain, wish.seeds, tell))
        # at strength 0 they are the base's
        guided_columns = {name: columns[name] or base for name in names}
        return Drawn(base, guided_columns, wish, self._told(wish, plain))

    def _sampling(self, wish: Wish, run: str | None = None) -> Sampling:
        """The settings of `contrapose sample` for an image of a run, or of the base; all but its seed."""
        usual = self.settings
        guiding = Guiding(negative_prompt=wish.negative_prompt or None)
        if run is not None:
            guidance = replace(usual.guidance, scale=wish.scale)
            guiding = replace(guiding, positive=self.runs.get(run), negative=usual.negative, guidance=guidance)
        return Sampling(
            usual.model,
            (wish.prompt,),
            steps=wish.steps or usual.steps,
            guidance_scale=usual.guidance_scale if wish.guidance_scale is None else wish.guidance_scale,
            size=wish.size or usual.size,
            precision=usual.precision,
            guiding=guiding,
            loading=usual.loading,
        )

    def _told(self, wish: Wish, plain: Sampling) -> dict[str, Any]:
        """What is written beside saved images."""
        settings = replace(
            self.settings,
            prompts=(),
            positive=tuple(self.runs[name] for name in wish.runs),
            guidance=replace(self.settings.guidance, scale=wish.scale),
            steps=plain.steps,
            guidance_scale=plain.guidance_scale,
            size=plain.size,
        )
        wished = {"prompt": wish.prompt, "seed": wish.seed, "num_images": wish.num_images}
        if wish.negative_prompt:
            wished["negative_prompt"] = wish.negative_prompt
        written = CONVERTER.unstructure(settings)
        del written["prompts"]
        return {**wished, **written}

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
        """Write all images, each with what it says of itself; the base image is nobody's to guide."""
        of_the_page = ("prompt", "seed", "num_images")
        settings = {key: value for key, value in drawn.settings.items() if key not in of_the_page}
        alone = {key: value for key, value in settings.items() if key not in ("positive", "negative")}
        self._write_column(drawn, drawn.base, folder / "base", alone)
        for number, (name, images) in enumerate(drawn.guided.items(), start=1):
            towards = [str(self.runs[name])] if name else []
            column = "guided" if number == 1 else f"guided-{number}"
            self._write_column(drawn, images, folder / column, {**settings, "positive": towards})

    def _write_column(
        self, drawn: Drawn, images: tuple[Image.Image, ...], stem: Path, settings: Mapping[str, Any]
    ) -> None:
        """Write the images of one column as STEM-SEED.png."""
        inscription = Inscription(settings, self.backbone.sampler.scheduler)
        for seed, image in zip(drawn.wish.seeds, images, strict=True):
            chunks = inscription.of(drawn.wish.prompt, seed, image.size)
            image.save(stem.with_name(f"{stem.name}-{seed}.png"), pnginfo=chunks)

    def _bases_of(self, sampling: Sampling, seeds: range, tell: Callable[[str, int], None]) -> Iterator[Image.Image]:
        """The base images, each drawn once while it is among the last `KEPT`."""
        for seed in seeds:
            key = (sampling, seed)
            if key not in self._bases:
                tell("base", seed)
                self._bases[key] = self._image(sampling, seed)
            self._bases.move_to_end(key)
            while len(self._bases) > KEPT:
                self._bases.popitem(last=False)
            yield self._bases[key]

    def _image(self, sampling: Sampling, seed: int) -> Image.Image:
        """The image that the pipeline makes as it is now, guided or not."""
        assert sampling.steps is not None and sampling.guidance_scale is not None, "`settled` has filled them in"
        [prompt] = sampling.prompts
        streams = [generator(prompt, seed)]
        generation = Generation(
            self._embeddings([prompt]),
            unprompted(sampling.guiding, self.backbone, self._embeddings),
            starting_noise(streams, self.backbone.images.shape_for(sampling.size)),
            streams,
            sampling.steps,
            sampling.guidance_scale,
        )
        [image] = self.backbone.sampler.generate(generation, "pil")
        assert isinstance(image, Image.Image)
        return image


def enlarged(image: Image.Image) -> Image.Image:
    """An image with each pixel as a square, as large as `_SHOWN` allows; large images stay as they are."""
    times = max(1, _SHOWN // max(image.size))
    return image.resize((times * image.width, times * image.height), Image.Resampling.NEAREST)
