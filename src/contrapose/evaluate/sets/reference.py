"""Features of a set on disk, so that 30,000 photographs are looked at once: .npz files without pickles."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from contrapose.contents import digest_of_parts, file_digest
from contrapose.errors import UserError
from contrapose.evaluate.images import SAMPLE_AGAIN, image_digest, prompt_folders, read_image
from contrapose.evaluate.run import counting
from contrapose.evaluate.sets.distances import FeatureMoments, moments
from contrapose.evaluate.sets.extractors import Extracted, Extractor
from contrapose.evaluate.sets.published import PublishedMoments, published_moments
from contrapose.files import replacing
from contrapose.workers import ALONE, Worker

_AT_ONCE = 256  # images that are decoded together
_PART = 2048  # images whose features are one file of a cache
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

    @cached_property
    def moments(self) -> FeatureMoments:
        """Mean and covariance, worked out once for all that is compared with this set."""
        return moments(self.features)

    def check_by(self, extractor: str) -> None:
        """Raise `UserError` where these features are not by this extractor, of this version."""
        if self.extractor != extractor:
            raise UserError(
                f"the reference's features are by {self.extractor}, and by {extractor} the images'; they do not "
                "compare: make the reference anew (--reference FOLDER --save-reference FILE), or choose --features"
            )


@dataclass
class FeatureCache:
    """Features of images by their content, so that no image is looked at twice, whatever stopped the first time."""

    folder: Path
    _used: set[Path] = field(default_factory=set)
    _digests: dict[Path, str] = field(default_factory=dict)

    def digests_of(self, paths: Sequence[Path]) -> list[str]:
        """A digest of each image, read once."""
        for path in paths:
            if path not in self._digests:
                self._digests[path] = image_digest(path)
        return [self._digests[path] for path in paths]

    def parts_of(self, paths: Sequence[Path], extractor: Extractor) -> Iterator[tuple[Path, Sequence[Path], list[str]]]:
        """Images in parts of 2,048: where the features of each are, or are to be written, its images, their digests."""
        for first in range(0, len(paths), _PART):
            part = paths[first : first + _PART]
            digests = self.digests_of(part)
            name = digest_of_parts([_FORMAT, extractor.name, extractor.version, *digests])
            place = self.folder / f"{name}.npz"
            self._used.add(place)
            yield place, part, digests

    def read(self, path: Path) -> ImageSet | None:
        """What is kept there; None where nothing whole is, so that these images are looked at again."""
        try:
            return read_set(path) if path.is_file() else None
        except UserError:
            return None

    def forget_others(self) -> None:
        """Delete the features of images that were not asked for."""
        for path in self.folder.glob("*.npz"):
            if path not in self._used:
                path.unlink(missing_ok=True)


Reference = ImageSet | PublishedMoments
"""What a model's images are compared with."""


def called(extractor: Extractor) -> str:
    """An extractor's name and version, as they stand beside every number."""
    return f"{extractor.name} {extractor.version}"


def files_of(folder: Path) -> list[Path]:
    """The images of a folder: GenEval's layout, or else every image in it, by name.

    Raises `UserError` for a folder without images.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of images")
    # folders with numbers for names alone are how photographs come too, such as FFHQ's
    if any(path.name.isdigit() and (path / "metadata.jsonl").is_file() for path in folder.iterdir()):
        return [path for prompt in prompt_folders(folder) for path in prompt.samples.values()]
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp"))
    if not paths:
        raise UserError(f"{folder}: holds no .png, .jpg or .webp images")
    return paths


def look_at(
    paths: Sequence[Path],
    extractor: Extractor,
    cache: FeatureCache | None = None,
    progress: Callable[[int, int], None] | None = None,
    fix: str = SAMPLE_AGAIN,
) -> ImageSet:
    """The features of these images, in their order; `progress` is told (images done, images in all).

    `fix` is what the user can do about a broken one, in which case `UserError` is raised.
    With a cache, parts of 2,048 images that were looked at before are read there, and others written.
    """
    if cache is None:
        return _seen(paths, [image_digest(path) for path in paths], extractor, fix, counting(len(paths), progress))
    look_together([(paths, fix)], extractor, cache, ALONE, progress)
    parts = [read_set(place) for place, _, _ in cache.parts_of(paths, extractor)]
    return _joined(parts, extractor, cache.digests_of(paths))


def look_together(
    sets: Iterable[tuple[Sequence[Path], str]],
    extractor: Extractor,
    cache: FeatureCache,
    worker: Worker,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Look at the images of these sets into the cache, those that no other worker looks at.

    Beside each set stands the fix of a broken image, and `progress` is told as by `look_at`. Returns the number of
    files that are left to other workers.
    """
    parts: dict[Path, tuple[Sequence[Path], list[str], str]] = {}
    for paths, fix in sets:
        for place, part, digests in cache.parts_of(paths, extractor):
            parts[place] = part, digests, fix  # a set may be there twice
    tell = counting(sum(len(part) for part, *_ in parts.values()), progress)
    for place, (part, digests, fix), task in worker.turns(
        parts.items(), lambda place, _: cache.read(place) is not None
    ):
        if task == "make":
            write_set(_seen(part, digests, extractor, fix, tell), place)
        else:
            tell(len(part))
    return sum(not place.exists() for place in parts)


def _seen(
    paths: Sequence[Path], digests: Sequence[str], extractor: Extractor, fix: str, tell: Callable[[int], None]
) -> ImageSet:
    """The features of images of these digests, each looked at; `tell` is told of so many at a time."""
    seen: list[Extracted] = []
    for begin in range(0, len(paths), _AT_ONCE):
        images: list[Image] = [read_image(path, fix) for path in paths[begin : begin + _AT_ONCE]]
        seen.append(extractor(images))
        tell(len(images))
    return _joined(seen, extractor, digests)


def _joined(parts: Sequence[Extracted | ImageSet], extractor: Extractor, digests: Sequence[str]) -> ImageSet:
    """Features one below the other."""
    features = np.concatenate([part.features for part in parts])
    classes = [part.probabilities for part in parts if part.probabilities is not None]
    probabilities = np.concatenate(classes) if classes else None
    return ImageSet(features, probabilities, called(extractor), digest_of_parts(digests))


def digest_of_reference(path: Path) -> str:
    """A digest of the images of a reference, the same for its folder and for the file that was made of it.

    Raises `UserError` for a path that is neither.
    """
    if path.is_dir():
        return digest_of_parts(image_digest(file) for file in files_of(path))
    reference = read_reference(path)
    return file_digest(path) if isinstance(reference, PublishedMoments) else reference.images


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
    reference = read_reference(path)
    if isinstance(reference, PublishedMoments):
        raise UserError(f"{path}: is not a set of features (it holds mu and sigma alone)")
    return reference


def read_reference(path: Path) -> Reference:
    """A set that `write_set` wrote, or the `mu` and `sigma` of another tool.

    Raises `UserError` naming a file that is missing, broken, or something else.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; name a folder of images, or an .npz that --save-reference wrote")
    try:
        with np.load(path, allow_pickle=False) as stored:
            if "mu" in stored and "sigma" in stored:
                return published_moments(path, stored["mu"], stored["sigma"])
            format_number = int(stored["format"])
            features = stored["features"]
            probabilities = stored["probabilities"]
            extractor = str(stored["extractor"])
            images = str(stored["images"])
    except (OSError, ValueError, KeyError, EOFError, TypeError, zlib.error, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path}: is not a set of features ({str(error)[:200]}); make it again from its images"
        ) from None
    tables = (features, probabilities)
    fits = format_number == _FORMAT and all(table.ndim == 2 and len(table) == len(features) for table in tables)
    if not fits or not all(np.issubdtype(table.dtype, np.floating) and np.isfinite(table).all() for table in tables):
        raise UserError(f"{path}: is not a set of features of this version; make it again from its images")
    return ImageSet(features, probabilities if probabilities.size else None, extractor, images)
