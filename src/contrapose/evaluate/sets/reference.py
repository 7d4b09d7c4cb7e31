"""Features of a set on disk, so that a reference of 30,000 photographs is looked at once: an .npz without pickles."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from contrapose.contents import digest_of_parts, file_digest
from contrapose.errors import UserError
from contrapose.evaluate.images import prompt_folders, read_image
from contrapose.evaluate.sets.extractors import Extracted, Extractor
from contrapose.files import replacing

_AT_ONCE = 256  # images that are decoded together
_FORMAT = 1


@dataclass(frozen=True)
class ImageSet:
    """The features of a set of images, and what they are features of."""

    features: NDArray[np.float32]
    probabilities: NDArray[np.float32] | None
    extractor: str
    """Name and version of the extractor; only sets by the same one are compared."""
    images: str
    """A digest of the images."""

    @property
    def count(self) -> int:
        """Number of images."""
        return len(self.features)


def files_of(folder: Path) -> list[Path]:
    """The images of a folder: GenEval's layout, or else every image in it, by name.

    Raises `UserError` for a folder without images.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of images")
    if any(path.name.isdigit() and path.is_dir() for path in folder.iterdir()):
        return [path for prompt in prompt_folders(folder) for path in prompt.samples.values()]
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp"))
    if not paths:
        raise UserError(f"{folder}: holds no .png, .jpg or .webp images")
    return paths


def look_at(
    paths: Sequence[Path], extractor: Extractor, progress: Callable[[int, int], None] | None = None
) -> ImageSet:
    """The features of these images, in their order; `progress` is told (images done, images in all)."""
    seen: list[Extracted] = []
    rest = iter(paths)
    done = 0
    while batch := list(islice(rest, _AT_ONCE)):
        images: list[Image] = [read_image(path) for path in batch]
        seen.append(extractor(images))
        done += len(batch)
        if progress:
            progress(done, len(paths))
    features = np.concatenate([part.features for part in seen])
    classes = [part.probabilities for part in seen if part.probabilities is not None]
    probabilities = np.concatenate(classes) if classes else None
    images_digest = digest_of_parts(file_digest(path) for path in paths)
    return ImageSet(features, probabilities, f"{extractor.name} {extractor.version}", images_digest)


def write_set(images: ImageSet, path: Path) -> None:
    """Write the features of a set, whole or not at all."""
    nothing = np.empty((images.count, 0), dtype=np.float32)  # of an extractor that tells no classes apart
    with replacing(path) as aside, aside.open("wb") as file:
        np.savez(
            file,
            format=np.array(_FORMAT),
            features=images.features,
            probabilities=nothing if images.probabilities is None else images.probabilities,
            extractor=np.array(images.extractor),
            images=np.array(images.images),
        )


def read_set(path: Path) -> ImageSet:
    """A set that `write_set` wrote; `UserError` naming a file that is missing, broken, or something else."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; name a folder of images, or an .npz that --save-reference wrote")
    try:
        with np.load(path, allow_pickle=False) as stored:
            format_number = int(stored["format"])
            features = stored["features"]
            probabilities = stored["probabilities"]
            extractor = str(stored["extractor"])
            images = str(stored["images"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path}: is not a set of features ({str(error)[:200]}); make it again from its images"
        ) from None
    if format_number != _FORMAT or features.ndim != 2 or not np.isfinite(features).all():
        raise UserError(f"{path}: is not a set of features of this version; make it again from its images")
    return ImageSet(features, probabilities if probabilities.size else None, extractor, images)
