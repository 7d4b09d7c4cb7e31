"""From rows to the numbers of a report: scores, and every model against the base; `summary.json` is a `Summary`.

A difference keeps the metric's own sign; a win is always the better image. Every overall number, the win rate too, is
the mean of the tags' means. Models and metrics appear in the order of their first row. Models named METHOD/SEED are
runs of one method: they have their own numbers, and together the method's, which allow for other training seeds.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from contrapose import runfile
from contrapose.documents import load_json
from contrapose.errors import UserError
from contrapose.evaluate import rows as evidence
from contrapose.evaluate import statistics, training_seeds
from contrapose.evaluate.rows import EvidenceRow, Paired, Rows
from contrapose.evaluate.sets.numbers import SetNumbers
from contrapose.evaluate.statistics import (
    LEVEL,
    REPLICATES,
    Interval,
    PromptMeans,
    Replicates,
    TagIntervals,
    prompt_means,
)
from contrapose.evaluate.training_seeds import SeedMeans
from contrapose.files import write_text
from contrapose.ranges import Count, Number, Range, Seed, Share, checked

FORMAT = 2
"""Of `summary.json`, under the key `format`; 1, which a file did not say, had no methods, no smallest differences."""
FIX = "delete it and run the command that made it again"
FLOOR = "floor"
CEILING = "ceiling"
BOUNDS = (FLOOR, CEILING)  # not contestants: their images share no noise with any model's

Level = Annotated[float, Range(0, 1, low_open=True, high_open=True)]


@dataclass(frozen=True)
@checked
class SummarySettings:
    """How rows are summed up."""

    base: str | None = None
    """The model that others are compared with; none compares nothing."""
    higher_is_better: Mapping[str, bool | None] = field(default_factory=dict)
    """Of each metric, whether a larger value is the better one, None for one that has no better direction; of those
    that are not named, it is."""
    replicates: Replicates = REPLICATES
    """Bootstrap replicates, and flips of the sign-flip test."""
    level: Level = LEVEL
    """Of the intervals."""
    seed: Seed = 0
    """Of the bootstrap and the test."""


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
    """One model, or one method, against the base by one metric."""

    difference: Interval
    """Model minus base, mean of the tags' means."""
    tags: dict[str, Interval]
    """The same for each tag."""
    p: Share
    """Two-sided sign-flip test of the difference."""
    win_rate: Interval
    """Share of images that are better than the base's of the same prompt and seed, larger where no direction is the
    better one; a tie is half a win."""
    p_holm: Share
    """`p` adjusted over this model's metrics that have a better direction; of the others `p` itself, since they are no
    claims to be better and would make those of the quality metrics weaker."""
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
    notes: tuple[str, ...]
    """What a reader of these numbers has to know, in whole sentences."""
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
        if self.sets is not None and self.sets.models.keys() - self.models.keys():
            raise UserError("numbers of sets are not those of the models")


CONVERTER = runfile.converter()


def summarize(rows: Iterable[EvidenceRow], settings: SummarySettings = SummarySettings()) -> Summary:
    """The summary of all rows.

    Raises `UserError` when there are no rows, or the base has none, or models were not judged on the same images.
    """
    columns = Rows.of(rows)
    if not len(columns):
        raise UserError("there are no rows to sum up; evaluate some images first")
    models = columns.models
    metrics = columns.metrics
    contestants: list[str] = []
    if settings.base is not None:
        if settings.base not in models:
            raise UserError(f"base {settings.base!r} was not evaluated; choose one of {', '.join(models)}")
        contestants = [model for model in models if model not in (settings.base, *BOUNDS)]
    scores: dict[str, ModelScores] = {}
    for model in models:
        scores[model] = _scores(columns, model, settings)
    comparisons = {model: _comparison(columns, model, metrics, settings) for model in contestants}
    methods: dict[str, MethodScores] = {}
    runs_of = training_seeds.runs_of_methods(model for model in models if model != settings.base)
    for method, runs in runs_of.items():
        methods[method] = _method(columns, runs, metrics, settings)
    return Summary(
        base=settings.base,
        level=settings.level,
        replicates=settings.replicates,
        seed=settings.seed,
        metrics={metric: Metric(settings.higher_is_better.get(metric, True)) for metric in metrics},
        models=scores,
        comparisons=comparisons,
        methods=methods,
        notes=_notes(contestants, runs_of),
    )


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


def _scores(rows: Rows, model: str, settings: SummarySettings) -> ModelScores:
    """One model's scores by its own rows."""
    metrics: dict[str, TagIntervals] = {}
    for metric in rows.metrics_of(model):
        group = rows.group(model, metric)
        means = prompt_means(group.values, group.prompt_ids.tolist(), group.tags.tolist())
        metrics[metric] = _bootstrap(means, settings)
    tags = rows.tags_of(model)
    return ModelScores(len(tags), rows.num_images(model), dict(Counter(tags.values())), metrics)


def _comparison(rows: Rows, model: str, metrics: Collection[str], settings: SummarySettings) -> dict[str, Comparison]:
    """One model against the base by every metric."""
    assert settings.base is not None
    differences: dict[str, TagIntervals] = {}
    win_rates: dict[str, Interval] = {}
    p_values: dict[str, float] = {}
    smallest: dict[str, float | None] = {}
    for metric in metrics:
        both = evidence.paired(rows, model, settings.base, metric)
        means = prompt_means(both.a - both.b, both.prompt_ids, both.tags)
        differences[metric] = _bootstrap(means, settings)
        win_rates[metric] = _bootstrap(_wins(both, metric, settings), settings).overall
        p_values[metric] = statistics.sign_flip(means, flips=settings.replicates, seed=settings.seed)
        smallest[metric] = _smallest(means.values[None], means.tags, settings)
    return _comparisons(differences, p_values, win_rates, smallest, settings)


def _method(rows: Rows, runs: Sequence[str], metrics: Collection[str], settings: SummarySettings) -> MethodScores:
    """The runs of one method as one, and against the base where there is one."""
    scores: dict[str, TagIntervals] = {}
    differences: dict[str, TagIntervals] = {}
    win_rates: dict[str, Interval] = {}
    p_values: dict[str, float] = {}
    smallest: dict[str, float | None] = {}
    # without a base, the first run stands for the images that all of them must have been judged on
    base = runs[0] if settings.base is None else settings.base
    for metric in metrics:
        pairs = [evidence.paired(rows, run, base, metric) for run in runs]
        of_runs = [prompt_means(both.a, both.prompt_ids, both.tags) for both in pairs]
        scores[metric] = training_seeds.by_tag(_of_seeds(of_runs), level=settings.level)
        gains = _of_seeds([prompt_means(both.a - both.b, both.prompt_ids, both.tags) for both in pairs])
        differences[metric] = training_seeds.by_tag(gains, level=settings.level)
        wins = training_seeds.over_seeds(
            _of_seeds([_wins(both, metric, settings) for both in pairs]), level=settings.level
        )
        win_rates[metric] = Interval(wins.value, max(wins.low, 0.0), min(wins.high, 1.0))  # a share is within these
        p_values[metric] = training_seeds.p_value(gains)
        smallest[metric] = _smallest(gains.values, gains.tags, settings)
    compared: dict[str, Comparison] = {}
    if settings.base is not None:
        compared = _comparisons(differences, p_values, win_rates, smallest, settings)
    return MethodScores(tuple(runs), scores, compared)


def _comparisons(
    differences: Mapping[str, TagIntervals],
    p_values: Mapping[str, float],
    win_rates: Mapping[str, Interval],
    smallest: Mapping[str, float | None],
    settings: SummarySettings,
) -> dict[str, Comparison]:
    """By metric, with Holm's p over those that have a better direction."""
    tested = [metric for metric in differences if settings.higher_is_better.get(metric, True) is not None]
    adjusted = dict(zip(tested, statistics.holm([p_values[metric] for metric in tested]), strict=True))
    compared: dict[str, Comparison] = {}
    for metric, difference in differences.items():
        compared[metric] = Comparison(
            difference=difference.overall,
            tags=difference.tags,
            p=p_values[metric],
            win_rate=win_rates[metric],
            p_holm=adjusted.get(metric, p_values[metric]),
            smallest_difference=smallest[metric],
        )
    return compared


def _wins(both: Paired, metric: str, settings: SummarySettings) -> PromptMeans:
    """Of each prompt, the share of images of `a` that are better than those of `b`."""
    if settings.higher_is_better.get(metric, True) is False:
        wins = statistics.wins(both.b, both.a)
    else:
        wins = statistics.wins(both.a, both.b)
    return prompt_means(wins, both.prompt_ids, both.tags)


def _of_seeds(runs: Sequence[PromptMeans]) -> SeedMeans:
    """The values of all runs, whose prompts are the same and in the same order."""
    return SeedMeans(np.stack([run.values for run in runs]), runs[0].tags)


def _smallest(values: NDArray[np.float64], tags: tuple[str, ...], settings: SummarySettings) -> float | None:
    if len(tags) < 2:
        return None
    return training_seeds.smallest_difference(SeedMeans(values, tags), level=settings.level)


def _notes(contestants: Sequence[str], runs_of: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """A warning of models that stand for one training seed alone."""
    combined = {run for runs in runs_of.values() for run in runs}
    single = [model for model in contestants if model not in combined]
    if not single:
        return ()
    return (
        f"One training seed each: {', '.join(single)}. Their intervals tell what other prompts could change, not what "
        "another training seed could, so that they are no evidence of a method; runs of several seeds are combined "
        "where they are named METHOD/SEED, such as ddspo/0, ddspo/1 and ddspo/2.",
    )


def _bootstrap(means: PromptMeans, settings: SummarySettings) -> TagIntervals:
    return statistics.bootstrap(means, replicates=settings.replicates, level=settings.level, seed=settings.seed)
