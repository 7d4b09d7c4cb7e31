"""Looking at the images of all models by one extractor: numbers of sets, and diversity and drift beside every score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from contrapose import runfile
from contrapose.errors import UserError
from contrapose.evaluate.images import SAMPLE_AGAIN, Images, prompt_folders
from contrapose.evaluate.rows import Key, Rows, prompt_id
from contrapose.evaluate.run import tag_of
from contrapose.evaluate.sets.describing import rows_of, tell_of_single_images
from contrapose.evaluate.sets.extractors import (
    EXTRACTORS,
    AnyExtractor,
    AnyFeatures,
    Extractor,
    InceptionFeatures,
    NoFeatures,
)
from contrapose.evaluate.sets.jackknife import Varied, groups_of
from contrapose.evaluate.sets.measure import MetricName, check_reference, check_traits, measure, need_features
from contrapose.evaluate.sets.numbers import SetNumbers, numbers_of
from contrapose.evaluate.sets.published import PublishedMoments
from contrapose.evaluate.sets.reference import (
    FeatureCache,
    ImageSet,
    Reference,
    called,
    files_of,
    look_at,
    look_together,
    read_reference,
    write_set,
)
from contrapose.evaluate.sets.suite import Sets
from contrapose.evaluate.suites import Suite, Unjudged
from contrapose.files import check_file
from contrapose.progress import Progress
from contrapose.workers import ALONE, Worker

_REPLACE = "get it again, or take it out of the reference"
CONVERTER = runfile.converter((AnyExtractor, EXTRACTORS))


@dataclass(frozen=True)
class Looking:
    """By what features images are looked at, and which numbers of sets are made of these.

    Raises `UserError` for metrics that cannot be made of such features, or without a reference.
    """

    features: AnyExtractor
    metrics: tuple[MetricName, ...] = ()
    reference: Path | None = None
    save_reference: Path | None = None

    def __post_init__(self) -> None:
        check_traits(self.metrics, self.features.traits)
        check_reference(self.metrics, self.reference is not None)
        if self.save_reference is not None:
            check_file(self.save_reference)

    def as_settings(self) -> dict[str, object]:
        """The extractor's settings with its name, as they stand in a file."""
        settings: dict[str, object] = CONVERTER.unstructure(self.features, unstructure_as=AnyExtractor)
        return settings


def looking_of(suite: Suite | Unjudged, features: AnyFeatures) -> Looking | None:
    """What is to be looked at beside a suite's judging; None where nothing is.

    The suite "set" cannot do without features, and takes Inception's where none are named.
    """
    if isinstance(suite, Sets):
        extractor = InceptionFeatures() if isinstance(features, NoFeatures) else features
        return Looking(extractor, suite.metrics, suite.reference, suite.save_reference)
    return None if isinstance(features, NoFeatures) else Looking(features)


class Looked(NamedTuple):
    """What was seen."""

    rows: Rows
    """Diversity, Vendi score and drift of each image."""
    numbers: SetNumbers


class _Place(NamedTuple):
    """Where one image is, and its prompt's category."""

    path: Path
    tag: str


@dataclass(frozen=True)
class Viewer:
    """An extractor that is ready to look, and where what it sees is kept."""

    looking: Looking
    extractor: Extractor
    cache: FeatureCache
    progress: Progress

    def look_together(self, models: Mapping[str, Images], base: str, worker: Worker = ALONE) -> int:
        """Look at the images of all models and of the reference, each once: those that no other worker looks at.

        Returns the number of files of features that are left to others. Raises `UserError` for a reference that is
        missing or by another extractor, before an image of a model is looked at; and for images that cannot be read.
        """
        sets = [(paths, SAMPLE_AGAIN) for paths in _paths(models, base).values()]
        path = self.looking.reference
        if path is not None and path.is_dir():
            sets.append((files_of(path), _REPLACE))
        elif path is not None:
            self.reference()
        with self.progress("looking at images") as bar:
            return look_together(sets, self.extractor, self.cache, worker, bar)

    def at(self, models: Mapping[str, Images], base: str) -> Looked:
        """What was seen of all models, which have the same prompts and seeds; what was not looked at is looked at now.

        Raises `UserError` as `look_together` does, and for sets that are too small for the metrics.
        """
        reference = self.reference()
        tags = {key: place.tag for key, place in _places(models[base]).items()}
        sets: dict[str, ImageSet] = {}
        for model, paths in _paths(models, base).items():
            sets[model] = look_at(paths, self.extractor, self.cache)
        groups = groups_of([name for name, _ in tags], list(tags.values()))
        values: dict[str, dict[str, Varied]] = {}
        if self.looking.metrics:
            with self.progress("measuring sets") as bar:
                for number, model in enumerate(models, start=1):
                    values[model] = measure(sets[model], reference, self.looking.metrics, groups)
                    if bar is not None:
                        bar(number, len(models))
        tell_of_single_images(tags)
        rows = Rows.of(())
        for model in models:
            rows += Rows.of(rows_of(model, tags, sets[model].features, sets[base].features))
        return Looked(rows, numbers_of(values, base, groups, sets[base], reference))

    def reference(self) -> Reference | None:
        """The features of the reference, saved where that is asked for; None where there is none.

        Raises `UserError` for one that is missing, broken, by another extractor, or too little for the metrics.
        """
        path = self.looking.reference
        if path is None:
            return None
        if path.is_dir():
            reference = look_at(files_of(path), self.extractor, self.cache, fix=_REPLACE)
        else:
            kept = read_reference(path)
            if isinstance(kept, PublishedMoments):
                if need_features(self.looking.metrics):
                    raise kept.too_little()
                kept.tell(self.extractor.name)
                if self.looking.save_reference is not None:
                    raise UserError(f"save_reference: {path} holds no features to save; name the folder of its images")
                return kept
            kept.check_by(called(self.extractor))
            reference = kept
        if self.looking.save_reference is not None:
            write_set(reference, self.looking.save_reference)
        return reference

    def is_reference_saved(self) -> bool:
        """Whether nothing is left to save."""
        return self.looking.save_reference is None or self.looking.save_reference.is_file()


def _paths(models: Mapping[str, Images], base: str) -> dict[str, list[Path]]:
    """Each model's images in the order of the base's."""
    keys = _places(models[base])
    paths: dict[str, list[Path]] = {}
    for model, folder in models.items():
        places = _places(folder)
        # equal numbers too: FID falls with them, and drift compares images one by one
        assert places.keys() == keys.keys(), f"{model} has other images than {base}"
        paths[model] = [places[key].path for key in keys]
    return paths


def _places(folder: Images) -> dict[Key, _Place]:
    """Every image of a model's folder."""
    places: dict[Key, _Place] = {}
    for prompt_folder in prompt_folders(folder):
        identity = prompt_id(prompt_folder.name, prompt_folder.prompt.text)
        for seed, path in prompt_folder.samples.items():
            places[identity, seed] = _Place(path, tag_of(prompt_folder.prompt))
    return places
