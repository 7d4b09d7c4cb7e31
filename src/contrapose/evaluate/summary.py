"""From rows to the numbers of a report: scores, and every model against the base; `summary.json` is a `Summary`.

A difference keeps the metric's own sign; a win is always the better image. Every overall number, the win rate too, is
the mean of the tags' means. Models and metrics appear in the order of their first row.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from contrapose import runfile
from contrapose.documents import load_json
from contrapose.errors import UserError
from contrapose.evaluate import rows as evidence
from contrapose.evaluate import statistics
from contrapose.evaluate.rows import EvidenceRow
from contrapose.evaluate.statistics import (
    LEVEL,
    REPLICATES,
    Interval,
    PromptMeans,
    Replicates,
    TagIntervals,
    prompt_means,
)
from contrapose.files import write_text
from contrapose.ranges import Count, Range, Seed, Share, checked

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
    higher_is_better: Mapping[str, bool] = field(default_factory=dict)
    """Of each metric, whether a larger value is the better one; of those that are not named, it is."""
    replicates: Replicates = REPLICATES
    """Bootstrap replicates, and flips of the sign-flip test."""
    level: Level = LEVEL
    """Of the intervals."""
    seed: Seed = 0
    """Of the bootstrap and the test."""


@dataclass(frozen=True)
class Metric:
    """How to read one metric."""

    higher_is_better: bool


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
    """One model against the base by one metric."""

    difference: Interval
    """Model minus base, mean of the tags' means."""
    tags: dict[str, Interval]
    """The same for each tag."""
    p: Share
    """Two-sided sign-flip test of the difference."""
    win_rate: Interval
    """Share of images that are better than the base's of the same prompt and seed; a tie is half a win."""
    p_holm: Share
    """`p` adjusted over this model's metrics."""


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


CONVERTER = runfile.converter()


def summarize(rows: Sequence[EvidenceRow], settings: SummarySettings = SummarySettings()) -> Summary:
    """The summary of all rows.

    Raises `UserError` when there are no rows, or the base has none, or models were not judged on the same images.
    """
    if not rows:
        raise UserError("there are no rows to sum up; evaluate some images first")
    models = list(dict.fromkeys(row.model for row in rows))
    metrics = list(dict.fromkeys(row.metric for row in rows))
    contestants: list[str] = []
    if settings.base is not None:
        if settings.base not in models:
            raise UserError(f"base {settings.base!r} was not evaluated; choose one of {', '.join(models)}")
        contestants = [model for model in models if model not in (settings.base, *BOUNDS)]
    scores: dict[str, ModelScores] = {}
    for model in models:
        scores[model] = _scores([row for row in rows if row.model == model], settings)
    comparisons = {model: _comparison(rows, model, metrics, settings) for model in contestants}
    return Summary(
        base=settings.base,
        level=settings.level,
        replicates=settings.replicates,
        seed=settings.seed,
        metrics={metric: Metric(settings.higher_is_better.get(metric, True)) for metric in metrics},
        models=scores,
        comparisons=comparisons,
    )


def write_summary(summary: Summary | None, path: Path, beside: Mapping[str, Any] | None = None) -> None:
    """Write a summary as JSON, whole or not at all, with the entries that are to stand before it in the file."""
    values = dict(beside or {})
    if summary is not None:
        values |= CONVERTER.unstructure(summary)
    write_text(path, json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_summary(path: Path) -> Summary:
    """A summary from JSON; what a sweep says of itself in the same file is left out.

    Raises `UserError` naming the file when it is missing, broken, or not a summary.
    """
    if not path.is_file():
        raise UserError(f"{path}: missing, so this is not evidence; make it with 'contrapose evaluate'")
    values = load_json(path, FIX)
    if isinstance(values, dict):
        values.pop("sweep", None)
    return runfile.structured(path, values, Summary, CONVERTER, FIX)


def _scores(rows: Sequence[EvidenceRow], settings: SummarySettings) -> ModelScores:
    """One model's scores by its own rows."""
    metrics: dict[str, TagIntervals] = {}
    for metric in dict.fromkeys(row.metric for row in rows):
        chosen = list(evidence.select(rows, rows[0].model, metric).values())
        values = np.array([row.value for row in chosen])
        prompts = [row.prompt_id for row in chosen]
        tags = [row.tag for row in chosen]
        metrics[metric] = _bootstrap(prompt_means(values, prompts, tags), settings)
    tag_of = {row.prompt_id: row.tag for row in rows}
    images = {(row.prompt_id, row.seed) for row in rows}
    return ModelScores(len(tag_of), len(images), dict(Counter(tag_of.values())), metrics)


def _comparison(
    rows: Sequence[EvidenceRow], model: str, metrics: Collection[str], settings: SummarySettings
) -> dict[str, Comparison]:
    """One model against the base by every metric."""
    assert settings.base is not None
    differences: dict[str, TagIntervals] = {}
    win_rates: dict[str, Interval] = {}
    p_values: dict[str, float] = {}
    for metric in metrics:
        both = evidence.paired(rows, model, settings.base, metric)
        if settings.higher_is_better.get(metric, True):
            wins = statistics.wins(both.a, both.b)
        else:
            wins = statistics.wins(both.b, both.a)
        means = prompt_means(both.a - both.b, both.prompt_ids, both.tags)
        differences[metric] = _bootstrap(means, settings)
        win_rates[metric] = _bootstrap(prompt_means(wins, both.prompt_ids, both.tags), settings).overall
        p_values[metric] = statistics.sign_flip(means, flips=settings.replicates, seed=settings.seed)
    compared: dict[str, Comparison] = {}
    for metric, p_holm in zip(metrics, statistics.holm(list(p_values.values())), strict=True):
        difference = differences[metric]
        compared[metric] = Comparison(
            difference=difference.overall,
            tags=difference.tags,
            p=p_values[metric],
            win_rate=win_rates[metric],
            p_holm=p_holm,
        )
    return compared


def _bootstrap(means: PromptMeans, settings: SummarySettings) -> TagIntervals:
    return statistics.bootstrap(means, replicates=settings.replicates, level=settings.level, seed=settings.seed)
