"""Looking at the images of all models by one extractor: numbers of sets, and diversity and drift beside every score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from contrapose import runfile
from contrapose.errors import UserError
from contrapose.evaluate.images import Images, prompt_folders
from contrapose.evaluate.rows import Key, Rows, prompt_id
from contrapose.evaluate.run import Progress, tag_of
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
    read_reference,
    write_set,
)
from contrapose.evaluate.sets.suite import Sets
from contrapose.evaluate.suites import Suite, Unjudged
from contrapose.files import check_file

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

    def at(self, models: Mapping[str, Images], base: str) -> Looked:
        """Look at every image of all models, which have the same prompts and seeds, and at none twice.

        Raises `UserError` for a reference that is missing or by another extractor, before an image of a model is looked
        at; and for images that cannot be read.
        """
        places = {model: _places(folder) for model, folder in models.items()}
        for model in models:
            # equal numbers too: FID falls with them, and drift compares images one by one
            assert places[model].keys() == places[base].keys(), f"{model} has other images than {base}"
        reference = self.reference()
        tags = {key: place.tag for key, place in places[base].items()}
        sets: dict[str, ImageSet] = {}
        for model in models:
            with self.progress(f"looking at {model}") as bar:
                sets[model] = look_at([places[model][key].path for key in tags], self.extractor, self.cache, bar)
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
            with self.progress("looking at the reference") as bar:
                reference = look_at(files_of(path), self.extractor, self.cache, bar, _REPLACE)
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


def _places(folder: Images) -> dict[Key, _Place]:
    """Every image of a model's folder."""
    places: dict[Key, _Place] = {}
    for prompt_folder in prompt_folders(folder):
        identity = prompt_id(prompt_folder.name, prompt_folder.prompt.text)
        for seed, path in prompt_folder.samples.items():
            places[identity, seed] = _Place(path, tag_of(prompt_folder.prompt))
    return places
