"""Images side by side: the same prompt and seed for every model, chosen by lot before anything is known of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from contrapose.errors import UserError
from contrapose.evaluate.images import PromptFolder, prompt_folders, read_image
from contrapose.evaluate.rows import EvidenceRow, Key, prompt_id, select
from contrapose.evaluate.run import tag_of as prompt_tag
from contrapose.evaluate.summary import FLOOR
from contrapose.report.evidence import Judged, ordered_tags, spoken
from contrapose.report.numbers import PERCENT
from contrapose.report.shown_groups import LARGEST
from contrapose.report.thumbnails import Thumbnail, thumbnail
from contrapose.store.prompts import Prompt


class Shown(NamedTuple):
    """One model's image, and what was said of it."""

    model: str
    image: Thumbnail
    mark: str = ""
    """A tick or a cross where the metric that the page is about is a verdict."""
    words: str = ""
    """The verdict, or that metric's value; empty where nothing was judged."""
    reasons: tuple[str, ...] = ()
    """Why the verdict is what it is."""
    further: tuple[str, ...] = ()
    """The other metrics' values."""


class Example(NamedTuple):
    """One prompt and seed, and what every model made of it; the tag is empty where all prompts share one."""

    prompt: str
    tag: str
    seed: int
    images: tuple[Shown, ...]


class Folders:
    """Several models' folders of images, by prompt.

    Raises `UserError` for a folder that is none, and for folders that share no prompt and seed.
    """

    def __init__(self, images: Mapping[str, Path]):
        self._by_model: dict[str, dict[str, PromptFolder]] = {}
        for model, directory in images.items():
            if not directory.is_dir():
                raise UserError(
                    f"{directory}: no such folder of images; put it back, or show numbers alone with --examples 0"
                )
            folders = prompt_folders(directory)
            self._by_model[model] = {prompt_id(folder.name, folder.prompt.text): folder for folder in folders}

    def keys(self, model: str) -> set[Key]:
        """Which prompts and seeds a model has images of."""
        return {(name, seed) for name, folder in self._by_model[model].items() for seed in folder.samples}

    def path(self, model: str, key: Key) -> Path:
        """The file of a model's image."""
        name, seed = key
        return self._by_model[model][name].samples[seed]

    def prompt(self, key: Key) -> Prompt:
        """What an image was made of."""
        return next(iter(self._by_model.values()))[key[0]].prompt

    @property
    def models(self) -> list[str]:
        """Their names, in the order of their columns."""
        return list(self._by_model)


def examples(judged: Judged, number: int, seed: int) -> list[Example]:
    """Up to `number` examples of images that were judged, taken from the tags in turn, at random.

    Raises `UserError` when a model's images are not those that were judged, or a file is broken.
    """
    # the floor has no images of its own
    directories = {model: path for model, path in judged.images.items() if model != FLOOR}
    if not directories or number < 1:
        return []
    folders = Folders(directories)
    main = judged.metrics[0]
    chosen = choose(
        _judged_images(judged, folders, {model: select(judged.rows, model, main) for model in folders.models}),
        judged.tags(),
        number,
        seed,
    )
    rows: dict[tuple[str, Key], dict[str, EvidenceRow]] = defaultdict(dict)
    for row in judged.rows:
        if (row.prompt_id, row.seed) in chosen:
            rows[row.model, (row.prompt_id, row.seed)][row.metric] = row
    shown = []
    for key, tag in chosen.items():
        images = [_shown(folders.path(model, key), judged, rows[model, key]) for model in folders.models]
        shown.append(_example(folders, key, tag if len(judged.tags()) > 1 else "", images))
    return shown


def unjudged_examples(images: Mapping[str, Path], number: int, seed: int) -> list[Example]:
    """Up to `number` examples of images that nobody judged, chosen as those of `examples` are.

    Raises `UserError` when the folders share no prompt and seed, or a file is broken.
    """
    if not images or number < 1:
        return []
    folders = Folders(images)
    shared = set.intersection(*(folders.keys(model) for model in folders.models))
    if not shared:
        raise _nothing_shared(images)
    tag_of = {key: prompt_tag(folders.prompt(key)) for key in sorted(shared)}
    tags = ordered_tags(tag_of.values())
    shown = []
    for key, tag in choose(tag_of, tags, number, seed).items():
        row = [Shown(model, _small(folders.path(model, key))) for model in folders.models]
        shown.append(_example(folders, key, tag if len(tags) > 1 else "", row))
    return shown


def _example(folders: Folders, key: Key, tag: str, images: Sequence[Shown]) -> Example:
    return Example(folders.prompt(key).text, tag, key[1], tuple(images))


def _nothing_shared(images: Mapping[str, Path]) -> UserError:
    directories = ", ".join(map(str, images.values()))
    return UserError(f"{directories}: share no prompt and seed; sample all models on the same ones")


def choose(tag_of: Mapping[Key, str], tags: Sequence[str], number: int, seed: int) -> dict[Key, str]:
    """Draw from the tags in turn, another prompt each time while there are any; the lot knows nothing of the images.

    In the order of the draw, so that the first few are of different tags.
    """
    queues: list[list[Key]] = []
    for index, tag in enumerate(tags):
        keys = sorted(key for key, its_tag in tag_of.items() if its_tag == tag)
        # a stream a tag: another tag's number of images does not change which of this one's are drawn
        order = np.random.default_rng([seed, index]).permutation(len(keys))
        fresh: dict[str, Key] = {}
        repeated = []
        for place in order:
            name, _ = keys[place]
            if name in fresh:
                repeated.append(keys[place])
            else:
                fresh[name] = keys[place]
        queues.append([*fresh.values(), *repeated])
    # one of each tag a turn, as long as any tag has images left
    turns: list[Key] = []
    for turn in range(max(map(len, queues), default=0)):
        turns += [queue[turn] for queue in queues if turn < len(queue)]
    return {key: tag_of[key] for key in turns[:number]}


def _judged_images(judged: Judged, folders: Folders, rows: Mapping[str, Mapping[Key, EvidenceRow]]) -> dict[Key, str]:
    """The (prompt, seed) that every model has both judged and on disk, and their tags."""
    shared: set[Key] | None = None
    for model in folders.models:
        both = folders.keys(model) & rows[model].keys()
        if not both:
            raise UserError(
                f"{judged.images[model]}: these images of {model!r} are not those that {judged.folder} judged; "
                "evaluate this folder, or name the one that was"
            )
        shared = both if shared is None else shared & both
    if not shared:
        raise _nothing_shared(judged.images)
    first = rows[folders.models[0]]
    return {key: first[key].tag for key in shared}


def _shown(path: Path, judged: Judged, rows: Mapping[str, EvidenceRow]) -> Shown:
    """An image with what each metric says of it; the first is the one that the page is about."""
    texts = {metric: f"{spoken(metric)} {row.value:.3g}" for metric, row in rows.items()}
    main = judged.metrics[0]
    row = rows[main]
    mark = ""
    words = texts.pop(main)
    if judged.scale(main).unit == PERCENT.unit:
        mark = "✓" if row.value == 1 else "✗"
        words = "right" if row.value == 1 else "wrong"
    reasons = tuple((row.reason or "").splitlines())
    return Shown(row.model, _small(path), mark, words, reasons, tuple(texts.values()))


def _small(path: Path) -> Thumbnail:
    return thumbnail(read_image(path), LARGEST)
