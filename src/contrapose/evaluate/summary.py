"""The numbers of a report, as `summary.json` holds them: each model's scores, and every model against the base."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from contrapose import runfile
from contrapose.documents import load_json
from contrapose.errors import UserError
from contrapose.evaluate.alarm import Alarm
from contrapose.evaluate.sets.numbers import SetNumbers
from contrapose.evaluate.statistics import Interval, TagIntervals
from contrapose.files import write_text
from contrapose.ranges import Count, Number, Range, Seed, Share, checked

FORMAT = 3
"""Of `summary.json`, under the key `format`; 2 had no pairs of methods, and 1, which a file did not say, no methods."""
FIX = "delete it and run the command that made it again"
FLOOR = "floor"
CEILING = "ceiling"
BOUNDS = (FLOOR, CEILING)  # not contestants: their images share no noise with any model's

Level = Annotated[float, Range(0, 1, low_open=True, high_open=True)]


@dataclass(frozen=True)
class Metric:
    """How to read one metric."""

    higher_is_better: bool | None
    """None for one that says how a model draws and not how well, such as drift from the base."""


@dataclass(frozen=True)
@checked
class ModelScores:
    """One model's own scores."""

    num_prompts: Count
    num_images: Count
    tags: dict[str, int]
    """Number of prompts of each tag."""
    metrics: dict[str, TagIntervals]


@dataclass(frozen=True)
@checked
class Comparison:
    """One model, or one method, against the base by one metric; or one method against another."""

    difference: Interval
    """Model minus base, or the first method minus the second; mean of the tags' means."""
    tags: dict[str, Interval]
    """The same for each tag."""
    p: Share
    """Two-sided sign-flip test of the difference."""
    win_rate: Interval
    """Share of images that are better than the base's of the same prompt and seed, larger where no direction is the
    better one; a tie is half a win."""
    p_holm: Share
    """`p` adjusted over this model's metrics that have a better direction, of methods over those of all pairs; of the
    other metrics `p` itself, since they are no claims to be better and would make those of the quality metrics weaker.
    """
    smallest_difference: Number | None
    """What these prompts, and of a method these training seeds, show four times in five (`training_seeds.POWER`); None
    where there is but one prompt."""


@dataclass(frozen=True)
class MethodScores:
    """The runs of several training seeds of one method as one; all intervals allow for other prompts and seeds."""

    runs: tuple[str, ...]
    """The models that they are."""
    metrics: dict[str, TagIntervals]
    """Mean over the runs; tags of one prompt are left out."""
    comparisons: dict[str, Comparison]
    """With the base, by metric; none without one. `p` is that of the interval."""


@dataclass(frozen=True)
class MethodPair:
    """Two methods of several training seeds each, on the same prompts; which seeds go together does not count."""

    first: str
    second: str
    comparisons: dict[str, Comparison]
    """The first against the second, by metric."""

    def __str__(self) -> str:
        return f"{self.first} against {self.second}"


@dataclass(frozen=True)
@checked
class Summary:
    """All that was found; raises `UserError` for parts that do not fit each other."""

    base: str | None
    """The model that others are compared with."""
    level: Level
    """Of all intervals."""
    replicates: Count
    seed: Seed
    metrics: dict[str, Metric]
    models: dict[str, ModelScores]
    comparisons: dict[str, dict[str, Comparison]]
    """By model and metric; of every model but the base, the floor and the ceiling."""
    methods: dict[str, MethodScores]
    """Of each method with several training runs; the base is no run of any."""
    pairs: tuple[MethodPair, ...]
    """Every two of these methods."""
    notes: tuple[str, ...]
    """What a reader of these numbers has to know, in whole sentences."""
    alarms: tuple[Alarm, ...] = ()
    """Gains on what a model was trained for that judges held out of training do not share."""
    sets: SetNumbers | None = None
    """What features tell of each model's images as a whole; None where nobody looked at them."""

    def __post_init__(self) -> None:
        if self.base is not None and self.base not in self.models:
            raise UserError(f"base {self.base} is none of the models")
        judged = {metric for scores in self.models.values() for metric in scores.metrics}
        if not judged or judged != set(self.metrics):
            raise UserError("metrics are not those of the models")
        for model, compared in self.comparisons.items():
            for side in (self.models.get(model), self.models.get(self.base or "")):
                if side is None or set(side.metrics) != set(compared):
                    raise UserError(f"comparison of {model} does not fit the models")
        for method, scores in self.methods.items():
            judged_by = [set(self.models[run].metrics) for run in scores.runs if run in self.models]
            fitting = len(judged_by) > 1 and len(judged_by) == len(scores.runs)
            if not fitting or any(metrics != set(scores.metrics) for metrics in judged_by):
                raise UserError(f"method {method} does not fit the models")
            if set(scores.comparisons) != (set(scores.metrics) if self.base is not None else set()):
                raise UserError(f"comparison of {method} does not fit the models")
        self._check_pairs()
        if self.sets is not None and self.sets.models.keys() - self.models.keys():
            raise UserError("numbers of sets are not those of the models")
        for alarm in self.alarms:
            if not {alarm.trained_for, *alarm.held_out} <= self.compared().get(alarm.name, {}).keys():
                raise UserError(f"alarm of {alarm.name} does not fit the models")

    def _check_pairs(self) -> None:
        """Raise `UserError` for a pair of methods that are not here, or were judged by other metrics."""
        for pair in self.pairs:
            for name in (pair.first, pair.second):
                if name not in self.methods or set(self.methods[name].metrics) != set(pair.comparisons):
                    raise UserError(f"{pair} does not fit the methods")

    def compared(self) -> dict[str, Mapping[str, Comparison]]:
        """By name and metric, what was compared with the base: models, and methods in the place of their runs."""
        compared: dict[str, Mapping[str, Comparison]] = {}
        runs = {run for method in self.methods.values() for run in method.runs}
        for model, by_metric in self.comparisons.items():
            if model not in runs:
                compared[model] = by_metric
        for name, method in self.methods.items():
            if method.comparisons:
                compared[name] = method.comparisons
        return compared

    def clearly(self, compared: Comparison, metric: str) -> int:
        """1 for clearly better, -1 for clearly worse, and 0 unless interval and Holm's p agree on one.

        Always 0 by a metric that has no better direction.
        """
        higher_is_better = self.metrics[metric].higher_is_better
        if higher_is_better is None or compared.p_holm >= 1 - self.level:
            return 0
        # 1 or -1 for an interval above or below 0, and 0 for one that holds it
        sign = (compared.difference.low > 0) - (compared.difference.high < 0)
        return sign if higher_is_better else -sign


CONVERTER = runfile.converter()


def write_summary(summary: Summary | None, path: Path, beside: Mapping[str, Any] | None = None) -> None:
    """Write a summary as JSON, whole or not at all, with the entries that are to stand before it in the file."""
    values = dict(beside or {})
    if summary is not None:
        values |= {"format": FORMAT} | CONVERTER.unstructure(summary)
    write_text(path, json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_summary(path: Path) -> Summary:
    """A summary from JSON; what a sweep says of itself in the same file is left out.

    Raises `UserError` naming the file when it is missing, broken, not a summary, or of another format.
    """
    if not path.is_file():
        raise UserError(f"{path}: missing, so this is not evidence; make it with 'contrapose evaluate'")
    values = load_json(path, FIX)
    if isinstance(values, dict):
        values.pop("sweep", None)
        is_old = _is_of_another_format(values)
        values.pop("format", None)
        if is_old:
            raise UserError(
                f"{path}: is not of format {FORMAT}, which this contrapose reads; run the command that made it again, "
                "which sums its rows up anew"
            )
    return runfile.structured(path, values, Summary, CONVERTER, FIX)


def is_current(path: Path) -> bool:
    """Whether a summary is there, and of the format that is read here; `UserError` for a file that is no JSON."""
    if not path.is_file():
        return False
    values = load_json(path, FIX)
    return not isinstance(values, dict) or not _is_of_another_format(values)


def _is_of_another_format(values: Mapping[str, Any]) -> bool:
    # what has no models is no summary of any format, and is told to be broken
    return "models" in values and values.get("format", 1) != FORMAT
