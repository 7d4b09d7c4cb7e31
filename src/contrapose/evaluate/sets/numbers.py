"""Numbers of whole sets as they stand in `summary.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from contrapose.errors import UserError
from contrapose.evaluate.sets.jackknife import Groups, Varied, interval, over_runs
from contrapose.evaluate.sets.measure import SET_METRICS
from contrapose.evaluate.sets.reference import ImageSet, Reference
from contrapose.evaluate.statistics import Interval
from contrapose.evaluate.training_seeds import runs_of_methods
from contrapose.ranges import AtLeast0, Count, CountOrNone, Number, checked


@dataclass(frozen=True)
@checked
class SetNumber:
    """One metric of one model's images as a whole, or the difference of it from the base's."""

    value: Number
    interval: Interval | None
    """Over prompts, with the reference as it is and as many images; None for too few prompts."""
    deviation: AtLeast0 | None = None
    """Standard deviation over KID's subsets or the inception score's splits, which is no interval of the model."""


@dataclass(frozen=True)
class MethodNumbers:
    """The runs of several training seeds of one method as one; intervals allow for other prompts and seeds."""

    runs: tuple[str, ...]
    """The models that they are."""
    metrics: dict[str, SetNumber]
    """Mean over the runs."""
    differences: dict[str, SetNumber]
    """Mean over the runs minus base."""


@dataclass(frozen=True)
@checked
class SetNumbers:
    """What features tell of each model's images as a whole, and what features they are.

    Raises `UserError` for parts that do not fit each other.
    """

    extractor: str
    """Network and resizer, and their version: numbers by another do not compare, diversity and drift neither."""
    num_images: Count
    """Of each model, since FID falls with them."""
    num_reference: CountOrNone
    """Images of the reference; 0 where there is none, or its file does not say."""
    num_groups: CountOrNone
    """Groups of prompts that the intervals come from; 0 where there are no intervals."""
    higher_is_better: dict[str, bool] = field(default_factory=dict)
    """Of each metric by name; empty where none was asked for."""
    models: dict[str, dict[str, SetNumber]] = field(default_factory=dict)
    """By model and metric."""
    differences: dict[str, dict[str, SetNumber]] = field(default_factory=dict)
    """Model minus base, by model and metric, of every model but the base."""
    methods: dict[str, MethodNumbers] = field(default_factory=dict)
    """Of each method with several training runs."""

    def __post_init__(self) -> None:
        every = [*self.models.items(), *self.differences.items()]
        for method, combined in self.methods.items():
            every += [(method, combined.metrics), (method, combined.differences)]
        for model, numbers in every:
            if set(numbers) != set(self.higher_is_better):
                raise UserError(f"numbers of sets: those of {model} are not the metrics")
        alone = self.models.keys() - self.differences.keys()
        if len(alone) != min(len(self.models), 1) or self.differences.keys() - self.models.keys():
            raise UserError("numbers of sets: differences are not those of all models but one")


def numbers_of(
    values: Mapping[str, Mapping[str, Varied]],
    base: str,
    groups: Groups | None,
    images: ImageSet,
    reference: Reference | None,
) -> SetNumbers:
    """The numbers of all models with their intervals; `images` are one model's, of which all have as many."""
    models: dict[str, dict[str, SetNumber]] = {}
    differences: dict[str, dict[str, SetNumber]] = {}
    for model, varied in values.items():
        models[model] = {}
        for metric, value in varied.items():
            models[model][metric] = SetNumber(value.value, interval(value, groups), value.deviation)
        if model != base:
            differences[model] = {}
            for metric, value in varied.items():
                gain = value.minus(values[base][metric])
                differences[model][metric] = SetNumber(gain.value, interval(gain, groups))
    methods: dict[str, MethodNumbers] = {}
    for method, runs in runs_of_methods(differences).items():
        methods[method] = _method(runs, values, base, groups)
    directions: dict[str, bool] = {}
    for set_metric in SET_METRICS.values():
        directions |= set_metric.higher_is_better
    num_reference = 0 if reference is None else reference.count
    num_groups = 0 if groups is None else int(groups.max()) + 1
    return SetNumbers(
        extractor=images.extractor,
        num_images=images.count,
        num_reference=num_reference,
        num_groups=num_groups,
        higher_is_better={metric: directions[metric] for metric in values.get(base, ())},
        models=models,
        differences=differences,
        methods=methods,
    )


def _method(
    runs: tuple[str, ...], values: Mapping[str, Mapping[str, Varied]], base: str, groups: Groups | None
) -> MethodNumbers:
    """The runs of one method as one, and against the base."""
    metrics: dict[str, SetNumber] = {}
    differences: dict[str, SetNumber] = {}
    for metric, of_base in values[base].items():
        of_runs = [values[run][metric] for run in runs]
        gains = [value.minus(of_base) for value in of_runs]
        mean = sum(value.value for value in of_runs) / len(runs)
        metrics[metric] = SetNumber(mean, over_runs(of_runs, groups))
        differences[metric] = SetNumber(mean - of_base.value, over_runs(gains, groups))
    return MethodNumbers(runs, metrics, differences)
