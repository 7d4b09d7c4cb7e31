"""What an evaluation takes of folders of images: which prompts they must have, and what becomes of broken files."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from contrapose.containers.left_out import LeftOut
from contrapose.errors import UserError
from contrapose.evaluate.images import ImageFolder, PromptFolder, check_image, check_same_images, prompt_folders
from contrapose.ranges import checked
from contrapose.store.prompts import Prompt, canonical, read_prompts
from contrapose.store.splits import by_canonical

_log = logging.getLogger(__name__)
_SHOWN = 3  # prompts that a complaint names


@dataclass(frozen=True)
@checked
class Taking:
    """Which images are judged, and by what prompts."""

    prompts: Path | None = None
    """List of the prompts that the images must be of, each with images: a file or folder such as GenEval's
    evaluation_metadata.jsonl; what it says of a prompt (category, objects, questions) completes the line beside the
    images."""
    allow_missing: bool = False
    """Judge the images that are there where the list has prompts without any."""
    skip_broken: bool = False
    """Leave broken images out, of all models alike, and name them in skipped.jsonl."""

    def __post_init__(self) -> None:
        if self.allow_missing and self.prompts is None:
            raise UserError("allow_missing: nothing can be missing from no list; name one with --prompts")


def taken(models: Mapping[str, Path], taking: Taking) -> tuple[dict[str, ImageFolder], list[LeftOut]]:
    """Each model's images, and those that are broken.

    Raises `UserError` for images of other prompts than the list's, prompts without images, models of different prompts
    or seeds, and broken images, unless they are to be left out; it names the first, and says how many there are.
    """
    folders = {model: ImageFolder(path, list(prompt_folders(path))) for model, path in models.items()}
    if taking.prompts is not None:
        listed = by_canonical(read_prompts(taking.prompts))
        for model, folder in folders.items():
            _check_prompts(folder, listed, taking)
            folders[model] = ImageFolder(folder.path, [_completed(those, listed) for those in folder.prompts])
    check_same_images(folders)
    left_out: list[LeftOut] = []
    keys: set[tuple[str, int]] = set()
    for folder in folders.values():
        for prompt_folder in folder.prompts:
            for seed, path in prompt_folder.samples.items():
                try:
                    check_image(path)
                except UserError as error:
                    left_out.append(LeftOut(str(path), "broken", str(error)))
                    keys.add((prompt_folder.name, seed))
    if left_out and not taking.skip_broken:
        count = f"; {len(left_out)} are broken in all" if len(left_out) > 1 else ""
        raise UserError(f"{left_out[0].reason}, or leave it out with --skip-broken{count}")
    if left_out:
        _log.warning(f"left out {len(keys)} images of each model, since {len(left_out)} are broken")
        folders = {model: _without(folder, keys) for model, folder in folders.items()}
        if not all(folder.prompts for folder in folders.values()):
            raise UserError(f"{left_out[0].name}: is broken, and so are all others; sample them again")
    return folders, left_out


def tell_of_left_out(out: Path, before: Iterable[str], now: Collection[str]) -> None:
    """Say which models an evaluation's folder holds that are not named any more, since their numbers go."""
    left_out = ", ".join(name for name in before if name not in now)
    if left_out:
        _log.warning(f"{out}: holds {left_out} too, whose numbers go; name what is to stay in it")


def _check_prompts(folder: ImageFolder, listed: Mapping[str, Prompt], taking: Taking) -> None:
    texts = {canonical(prompt_folder.prompt.text): prompt_folder for prompt_folder in folder.prompts}
    foreign = [prompt_folder for text, prompt_folder in texts.items() if text not in listed]
    if foreign:
        raise UserError(
            f"{folder}: {len(foreign)} of its prompts are not in {taking.prompts}, the first "
            f"{foreign[0].prompt.text!r} in {foreign[0].name}; name the list that these images were made from"
        )
    missing = [prompt.text for text, prompt in listed.items() if text not in texts]
    if missing:
        first = ", ".join(map(repr, missing[:_SHOWN]))
        count = f"{len(missing)} of the {len(listed)} prompts in {taking.prompts}"
        line = f"{folder}: has no images of {count}, such as {first}"
        if not taking.allow_missing:
            raise UserError(f"{line}; sample them, or judge the others with --allow-missing")
        _log.warning(line)


def _completed(folder: PromptFolder, listed: Mapping[str, Prompt]) -> PromptFolder:
    """With what the list says of the prompt; raises `UserError` for a line that says something else."""
    fields = dict(folder.prompt.fields)
    for name, value in listed[canonical(folder.prompt.text)].fields.items():
        if fields.setdefault(name, value) != value:
            raise UserError(
                f"{folder.path}: its line has another `{name}` than the list of prompts; name the list that these "
                "images were made from"
            )
    return replace(folder, prompt=replace(folder.prompt, fields=fields))


def _without(folder: ImageFolder, keys: Collection[tuple[str, int]]) -> ImageFolder:
    """Without the images of these prompts' folders and seeds, and prompts that then have none."""
    prompts: list[PromptFolder] = []
    for prompt_folder in folder.prompts:
        samples = {seed: path for seed, path in prompt_folder.samples.items() if (prompt_folder.name, seed) not in keys}
        if samples:
            prompts.append(replace(prompt_folder, samples=samples))
    return ImageFolder(folder.path, prompts)
