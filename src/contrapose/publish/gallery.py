"""The images of a model card: what a run drew while it trained, or a folder of `contrapose sample`'s."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from contrapose.errors import UserError
from contrapose.runs.watched import film, images_in

_MOST = 8  # images, each of another prompt while there are so many prompts
SAMPLED = "images"  # the folder of sampled images in the repository


class GalleryImage(NamedTuple):
    """One image of a gallery, by the name that its file has in the repository."""

    prompt: str
    seed: int
    name: str
    path: Path
    before: tuple[str, Path] | None = None
    """The same prompt and seed before training, by name and file."""


class CardImages(NamedTuple):
    """The images of a card, and what they are."""

    images: tuple[GalleryImage, ...] = ()
    step: int | None = None
    """The step at which a run drew them; None of sampled ones."""

    @property
    def files(self) -> dict[str, Path]:
        """All files by the name that they get."""
        files = {image.name: image.path for image in self.images}
        files |= dict(image.before for image in self.images if image.before is not None)
        return files

    @property
    def has_before(self) -> bool:
        """Whether every image stands beside the one before training."""
        return bool(self.images) and all(image.before is not None for image in self.images)


def gallery_of_run(run: Path, step: int | None = None) -> CardImages:
    """What a run drew last, or last until this step, of its first prompts, beside what it drew before training.

    Empty for a run that drew nothing. Raises `UserError` naming the file for a broken line beside the images.
    """
    strips = film(run)
    drawn = {number for strip in strips for number in strip.paths if step is None or number <= step}
    newest = max(drawn, default=0)
    images: dict[str, GalleryImage] = {}
    for strip in strips:
        paths = strip.paths
        # of the base alone there is nothing to show
        if newest == 0 or newest not in paths or strip.prompt in images:
            continue
        before = (_below(paths[0], run), paths[0]) if 0 in paths else None
        path = paths[newest]
        images[strip.prompt] = GalleryImage(strip.prompt, strip.seed, _below(path, run), path, before)
    return CardImages(tuple(images.values())[:_MOST], newest)


def gallery_of_samples(folder: Path) -> CardImages:
    """Images of a folder that `contrapose sample` wrote, the first seed of each prompt first.

    Raises `UserError` for a folder that holds none.
    """
    listed = sorted(images_in(folder), key=lambda image: image[1])
    if not listed:
        raise UserError(f"{folder}: holds no images; name a folder that 'contrapose sample' wrote")
    chosen = [
        GalleryImage(prompt, seed, f"{SAMPLED}/{_below(path, folder)}", path) for prompt, seed, path in listed[:_MOST]
    ]
    return CardImages(tuple(chosen))


def _below(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()
