"""Reading folders of images in GenEval's layout or T2I-CompBench's. Nothing outside the given folder is read.

00000/metadata.jsonl, 00000/samples/0000.png, ...   GenEval: a folder's number is its prompt's line, an image's its seed
samples/a red cat_000000.png, ...                   CompBench: an image's name is its prompt, and its number its seed
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from contrapose.contents import bytes_digest, digest_of_parts
from contrapose.errors import UserError
from contrapose.store.prompts import Prompt, read_prompts

SAMPLE_AGAIN = "delete it and sample it again"
_FOLDER = re.compile(r"[0-9]+")
_IMAGE = re.compile(r"([0-9]+)\.png")
_OF_PROMPT = re.compile(r"(.*\S.*)_([0-9]{6})\.png", re.DOTALL)
_FORMATS = ("PNG", "JPEG", "WEBP")  # whatever the name says; other formats, such as EPS, run programs
_PNG = b"\x89PNG\r\n\x1a\n"
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_LARGEST_SEED = 2**63 - 1


@dataclass(frozen=True)
class PromptFolder:
    """One prompt and its images: `samples` maps seed to file, in order of seed."""

    path: Path
    prompt: Prompt
    samples: dict[int, Path]
    number: str = ""
    """Of a prompt that has no folder of its own."""

    @property
    def name(self) -> str:
        return self.number or self.path.name

    def images(self) -> Iterator[tuple[int, Image.Image]]:
        """Yield (seed, RGB image), reading each file when its turn comes."""
        for seed, path in self.samples.items():
            yield seed, read_image(path)


@dataclass(frozen=True)
class ImageFolder:
    """A folder of images that was read: what an evaluation takes of it."""

    path: Path
    prompts: Sequence[PromptFolder]

    def __str__(self) -> str:
        return str(self.path)


Images = Path | ImageFolder
"""Where a model's images are."""


def prompt_folders(images: Images) -> Iterator[PromptFolder]:
    """Yield the prompts of a folder of images in the order of their numbers; other names in it are left alone.

    Raises `UserError` naming the folder or file, and the fix, when something is missing or broken.
    """
    if isinstance(images, ImageFolder):
        yield from images.prompts
        return
    directory = images
    if not directory.is_dir():
        raise UserError(f"{directory}: no such folder of images; sample images into it first")
    paths = [path for path in directory.iterdir() if _FOLDER.fullmatch(path.name)]
    if not paths:
        yield from _by_file_names(directory)
        return
    for path in sorted(paths, key=lambda path: (int(path.name), path.name)):
        yield PromptFolder(path, _prompt(path, directory), _samples(path, directory))


def _by_file_names(directory: Path) -> Iterator[PromptFolder]:
    """The prompts of CompBench's layout in the order of their first images, numbered in that order.

    Differs from the authors' code: a prompt may hold `_`, since its name ends at the last one.
    """
    folder = directory / "samples" if (directory / "samples").is_dir() else directory
    _check_inside(folder, directory)
    images: list[tuple[int, str, Path]] = []
    for path in folder.iterdir():
        named = _OF_PROMPT.fullmatch(path.name)
        if not named:
            continue
        _check_inside(path, directory)
        try:
            named[1].encode("utf-8")
        except UnicodeEncodeError:
            raise UserError(f"{path.name!a} in {folder}: its name is not UTF-8; rename it") from None
        images.append((int(named[2]), named[1], path))
    if not images:
        raise UserError(
            f"{directory}: holds no folders 00000, 00001, ...; name a folder in GenEval's layout, or in CompBench's "
            "(samples/PROMPT_000000.png, ...)"
        )
    samples: dict[str, dict[int, Path]] = {}
    for seed, text, path in sorted(images):
        samples.setdefault(text, {})[seed] = path
    for number, (text, of_prompt) in enumerate(samples.items()):
        yield PromptFolder(folder, Prompt(text), of_prompt, f"{number:05d}")


def metadata_of(prompt: Prompt) -> dict[str, Any]:
    """A prompt as the JSON object of its line, which is GenEval's for prompts of a world."""
    return {"prompt": prompt.text, **prompt.fields}


def read_image(path: Path, fix: str = SAMPLE_AGAIN) -> Image.Image:
    """The image of a file, in RGB; `fix` is what the user can do about one that is broken.

    Raises `UserError` naming a file that is broken, of another format than PNG, JPEG and WebP, or of more pixels than
    PIL's limit (about 89 million); these are counted before they are decoded.
    """
    try:
        with _opened(path) as image:
            return image.convert("RGB")
    # Pillow tells of broken files with all of these.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = str(error).replace(str(path), path.name)
        kind = path.suffix[1:].upper()
        raise UserError(f"{path}: not a whole {kind} image ({reason}); {fix}") from None


def check_image(path: Path) -> None:
    """Raise `UserError` for a file that is no whole image, as `read_image` does, without decoding a PNG."""
    try:
        with _opened(path) as image:
            is_png = image.format == "PNG"
            if is_png:
                image.verify()  # the checksum of every part, which no other format has
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        is_png = False
    if not is_png:
        read_image(path)


def _opened(path: Path) -> Image.Image:
    """The image before it is decoded, its size being within the limit."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the size, which is looked at below
        image = Image.open(path, formats=_FORMATS)
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        image.close()
        raise ValueError(f"{image.width}x{image.height} is more than PIL's limit of {limit} pixels")
    return image


def digest_of_images(directory: Path) -> str:
    """A digest of a folder's prompts and images, which is all that a judge sees of it.

    Raises `UserError` as `prompt_folders` does.
    """
    parts: list[str] = []
    for folder in prompt_folders(directory):
        parts += [folder.name, json.dumps(metadata_of(folder.prompt), sort_keys=True)]
        parts += [f"{seed} {image_digest(path)}" for seed, path in folder.samples.items()]
    return digest_of_parts(parts)


def image_digest(path: Path) -> str:
    """A digest of an image's file but for the texts in it: what an image says of itself does not change what it is.

    So an image that another version sampled again, to the same pixels, is the image that was judged.
    """
    return bytes_digest(*_without_texts(memoryview(path.read_bytes())))


def _without_texts(data: memoryview) -> list[memoryview]:
    """The parts of a PNG between its text chunks, together what it was without them; any other file whole.

    After its signature a PNG is a row of chunks: length of the data (4 bytes, big endian), kind (4), data, CRC (4).
    """
    if data[: len(_PNG)] != _PNG:
        return [data]
    parts: list[memoryview] = []
    start = len(_PNG)
    begin = 0  # of what is kept and is not among the parts yet
    kind = b""
    while kind != b"IEND":
        end = start + 12 + int.from_bytes(data[start : start + 4], "big")
        if end > len(data):  # cut short
            return [data]
        kind = bytes(data[start + 4 : start + 8])
        if kind in _TEXTS:
            parts.append(data[begin:start])
            begin = end
        start = end
    return [*parts, data[begin:]]


def check_same_images(models: Mapping[str, Images]) -> None:
    """Raise `UserError` where a model's folder lacks a prompt and seed that another one's has, naming the first."""
    keys: dict[str, set[tuple[str, str, int]]] = {}
    for model, directory in models.items():
        keys[model] = set()
        for folder in prompt_folders(directory):
            keys[model] |= {(folder.name, folder.prompt.text, seed) for seed in folder.samples}
    every = set().union(*keys.values())
    for model, its_keys in keys.items():
        missing = sorted(every - its_keys)
        if missing:
            name, prompt, seed = missing[0]
            raise UserError(
                f"{models[model]}: {len(missing)} images that other models have are missing, the first of seed {seed} "
                f"of prompt {name}, {prompt!r}; sample all models with the same prompts and seeds"
            )


def _prompt(folder: Path, directory: Path) -> Prompt:
    path = folder / "metadata.jsonl"
    if not path.is_file():
        raise UserError(f"{path}: missing; each folder needs its prompt as one JSON object")
    _check_inside(path, directory)
    prompts = read_prompts(path)
    if len(prompts) != 1:
        raise UserError(f"{path}: holds {len(prompts)} lines; one JSON object was expected")
    return prompts[0]


def _samples(folder: Path, directory: Path) -> dict[int, Path]:
    samples_folder = folder / "samples"
    if not samples_folder.is_dir():
        raise UserError(f"{samples_folder}: missing; sample this prompt's images again")
    _check_inside(samples_folder, directory)
    samples: dict[int, Path] = {}
    for path in sorted(samples_folder.iterdir()):
        named = _IMAGE.fullmatch(path.name)
        if not named:
            continue
        _check_inside(path, directory)
        seed = int(named[1])
        if seed > _LARGEST_SEED:
            raise UserError(f"{path}: says a seed above {_LARGEST_SEED}; name it otherwise")
        if seed in samples:
            raise UserError(f"{path}: says seed {seed} as {samples[seed].name} does; delete one of the two")
        samples[seed] = path
    if not samples:
        raise UserError(
            f"{samples_folder}: holds no images 0000.png, 0001.png, ...; sample this prompt again, or name your images "
            "so, JPEG and WebP too"
        )
    return dict(sorted(samples.items()))


def _check_inside(path: Path, directory: Path) -> None:
    try:
        inside = path.resolve().is_relative_to(directory.resolve())
    except (OSError, RuntimeError):  # Python tells of a loop of links with either, by its version
        raise UserError(f"{path}: is a link that leads nowhere; copy the file there instead") from None
    if not inside:
        raise UserError(f"{path}: links to a place outside {directory}; copy the file there instead")
