"""The metrics of sets by name, each with what it needs, and models compared by them on equal numbers of images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from contrapose.errors import UserError
from contrapose.evaluate.sets import distances
from contrapose.evaluate.sets.distances import moments
from contrapose.evaluate.sets.reference import ImageSet


@dataclass(frozen=True)
class Value:
    """One metric of one model."""

    value: float
    spread: float | None = None
    """Standard deviation over subsets or splits, where the metric is made so; it is not an interval of the model."""


@dataclass(frozen=True)
class SetMetric:
    """One metric of a set."""

    measure: Callable[[ImageSet, ImageSet | None], Mapping[str, Value]]
    """From a model's set and the reference, to numbers by name."""
    needs_reference: bool = True


def measure_fid(model: ImageSet, reference: ImageSet | None) -> dict[str, Value]:
    """`fid`: Frechet's distance to the reference."""
    assert reference is not None
    return {"fid": Value(distances.fid(moments(model.features), moments(reference.features)))}


def measure_kid(model: ImageSet, reference: ImageSet | None) -> dict[str, Value]:
    """`kid`: kernel distance to the reference, which does not fall with the number of images."""
    assert reference is not None
    kid = distances.kid(model.features, reference.features)
    return {"kid": Value(kid.mean, kid.deviation)}


def measure_cmmd(model: ImageSet, reference: ImageSet | None) -> dict[str, Value]:
    """`cmmd`: kernel distance to the reference of unit vectors, as CLIP's are."""
    assert reference is not None
    return {"cmmd": Value(distances.cmmd(model.features, reference.features))}


def measure_precision_and_recall(model: ImageSet, reference: ImageSet | None) -> dict[str, Value]:
    """`precision`, the share of images near the reference, and `recall`, the share of the reference that is reached."""
    assert reference is not None
    precision, recall = distances.precision_and_recall(reference.features, model.features)
    return {"precision": Value(precision), "recall": Value(recall)}


def measure_inception_score(model: ImageSet, reference: ImageSet | None) -> dict[str, Value]:
    """`is`: how sure and how varied the classes are; `UserError` for an extractor that tells no classes apart."""
    if model.probabilities is None:
        raise UserError(f"the inception score needs classes, which {model.extractor} does not tell; use inception")
    score = distances.inception_score(model.probabilities)
    return {"is": Value(score.mean, score.deviation)}


SET_METRICS: dict[str, SetMetric] = {
    "fid": SetMetric(measure_fid),
    "kid": SetMetric(measure_kid),
    "cmmd": SetMetric(measure_cmmd),
    "precision-recall": SetMetric(measure_precision_and_recall),
    "is": SetMetric(measure_inception_score, needs_reference=False),
}
HIGHER_IS_BETTER = {"fid": False, "kid": False, "cmmd": False, "precision": True, "recall": True, "is": True}


def measure(
    models: Mapping[str, ImageSet], reference: ImageSet | None, metrics: Sequence[str]
) -> dict[str, dict[str, Value]]:
    """Each model's numbers by name.

    Raises `UserError` for models of unequal numbers of images, since FID falls with it; for sets by different
    extractors; and for a metric that needs a reference, or classes, where there is none.
    """
    counts = {name: images.count for name, images in models.items()}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise UserError(f"sets of unequal size do not compare ({listed}); sample as many images of each")
    every = [*models.values(), *([reference] if reference else [])]
    if len({images.extractor for images in every}) > 1:
        extractors = " and ".join(dict.fromkeys(images.extractor for images in every))
        raise UserError(f"features by {extractors} do not compare; make the reference anew by the same extractor")
    for name in metrics:
        if SET_METRICS[name].needs_reference and reference is None:
            raise UserError(f"{name} compares with a reference; name its folder or .npz with --reference")
    values: dict[str, dict[str, Value]] = {}
    for model, images in models.items():
        values[model] = {}
        for name in metrics:
            values[model] |= SET_METRICS[name].measure(images, reference)
    return values


def drift(model: ImageSet, base: ImageSet) -> float:
    """Mean of 1 - cos between a model's image and the base's of the same prompt and noise, in the order of the sets.

    0 where the model draws what the base draws. Raises `UserError` for sets of other sizes or extractors.
    """
    if model.count != base.count or model.extractor != base.extractor:
        raise UserError("drift compares images one by one; give sets of the same prompts and seeds by one extractor")
    a = model.features.astype(np.float64)
    b = base.features.astype(np.float64)
    cosines = (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return float(1 - cosines.mean())
