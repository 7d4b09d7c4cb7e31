"""The metrics of sets by name, each with what it needs, and what is refused before any image is looked at."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from contrapose.errors import UserError
from contrapose.evaluate.sets import coverage, distances
from contrapose.evaluate.sets.extractors import Traits
from contrapose.evaluate.sets.jackknife import Groups, Varied
from contrapose.evaluate.sets.reference import ImageSet, Reference

_ANY = Traits()  # any features will do
MetricName = Literal["fid", "kid", "cmmd", "precision-recall", "is"]


@dataclass(frozen=True)
class SetMetric:
    """One metric of a set, or two that are measured together."""

    measure: Callable[[ImageSet, Reference, Groups | None], Mapping[str, Varied]]
    """From a model's set, the reference and the groups of the model's images, to numbers by name; a metric that needs
    no reference is given the set itself."""
    higher_is_better: Mapping[str, bool]
    """Of each number by name."""
    reference: Literal["none", "moments", "features"] = "features"
    """What it compares with: nothing, the mean and covariance of a reference's features, or the features."""
    traits: Traits = _ANY
    """What the features must be."""


def measure_fid(model: ImageSet, reference: Reference, groups: Groups | None) -> dict[str, Varied]:
    """`fid`: Frechet's distance to the reference."""
    return {"fid": distances.fid_to(reference.moments, model.features, groups)}


def measure_kid(model: ImageSet, reference: Reference, groups: Groups | None) -> dict[str, Varied]:
    """`kid`: kernel distance to the reference, which does not fall with the number of images."""
    return {"kid": distances.kid(model.features, reference.features, groups)}


def measure_cmmd(model: ImageSet, reference: Reference, groups: Groups | None) -> dict[str, Varied]:
    """`cmmd`: kernel distance to the reference of unit vectors, as CLIP's are."""
    return {"cmmd": distances.cmmd(model.features, reference.features, groups)}


def measure_precision_and_recall(model: ImageSet, reference: Reference, groups: Groups | None) -> dict[str, Varied]:
    """`precision`, the share of images near the reference, and `recall`, the share of the reference that is reached."""
    precision, recall = coverage.precision_and_recall(reference.features, model.features, groups)
    return {"precision": precision, "recall": recall}


def measure_inception_score(model: ImageSet, reference: Reference, groups: Groups | None) -> dict[str, Varied]:
    """`is`: how sure and how varied the classes are; `UserError` for an extractor that tells no classes apart."""
    if model.probabilities is None:
        raise UserError(f"the inception score needs classes, which {model.extractor} does not tell; use inception")
    return {"is": coverage.inception_score(model.probabilities, groups)}


SET_METRICS: dict[MetricName, SetMetric] = {
    "fid": SetMetric(measure_fid, {"fid": False}, "moments"),
    "kid": SetMetric(measure_kid, {"kid": False}),
    "cmmd": SetMetric(measure_cmmd, {"cmmd": False}, traits=Traits(unit=True)),
    "precision-recall": SetMetric(measure_precision_and_recall, {"precision": True, "recall": True}),
    "is": SetMetric(measure_inception_score, {"is": True}, "none", Traits(classes=True)),
}


def check_reference(metrics: Sequence[MetricName], is_named: bool) -> None:
    """Raise `UserError` for a metric without the reference that it needs."""
    for name in metrics:
        if SET_METRICS[name].reference != "none" and not is_named:
            raise UserError(f"{name} compares with a reference; name its folder or .npz with --reference")


def check_traits(metrics: Sequence[MetricName], traits: Traits) -> None:
    """Raise `UserError` for a metric that features of these traits cannot give."""
    for name in metrics:
        needed = SET_METRICS[name].traits
        if needed.classes and not traits.classes:
            raise UserError(f"{name} needs classes, which these features do not tell; use --features inception")
        if needed.unit and not traits.unit:
            raise UserError(f"{name} is of CLIP's unit vectors, and these features are not; use --features clip")


def need_features(metrics: Sequence[MetricName]) -> bool:
    """Whether a reference's mean and covariance are too little for one of these metrics."""
    return any(SET_METRICS[name].reference == "features" for name in metrics)


def measure(
    model: ImageSet, reference: Reference | None, metrics: Sequence[MetricName], groups: Groups | None = None
) -> dict[str, Varied]:
    """A model's numbers by name, and each without every group of its images.

    Raises `UserError` for a metric without the reference, the classes or the unit vectors that it needs, for sets by
    different extractors, and for sets that are too small.
    """
    check_reference(metrics, reference is not None)
    if isinstance(reference, ImageSet):
        reference.check_by(model.extractor)
    values: dict[str, Varied] = {}
    for name in metrics:
        values |= SET_METRICS[name].measure(model, reference or model, groups)
    return values
