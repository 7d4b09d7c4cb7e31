"""From rows to the numbers of a report: scores, and every model against the base.

`summary.json`, where INTERVAL is {"value": float, "low": float, "high": float} at the stated level:

    {
      "base": str | null,                       the model that others are compared with
      "level": float, "replicates": int, "seed": int,
      "metrics": {metric: {"higher_is_better": bool}},
      "models": {model: {
        "num_prompts": int, "num_images": int, "tags": {tag: number of prompts},
        "metrics": {metric: {"overall": INTERVAL, "tags": {tag: INTERVAL}}}}},
      "comparisons": {model: {metric: {         every model but the base, floor and ceiling
        "difference": INTERVAL,                 model minus base, mean of the tags' means
        "tags": {tag: INTERVAL},                the same for each tag
        "p": float,                             two-sided sign-flip test of the difference
        "p_holm": float,                        adjusted over this model's metrics
        "win_rate": INTERVAL}}}                 share of images better than the base's of the same seed; a tie is half
    }

A difference keeps the metric's own sign; a win is always the better image. The overall win rate, too, is the mean of
the tags' rates. Models appear in the order of their first row.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from contrapose import runfile
from contrapose.documents import load_json
from contrapose.errors import UserError
from contrapose.evaluate import rows as evidence
from contrapose.evaluate import statistics
from contrapose.evaluate.rows import Row
from contrapose.evaluate.statistics import LEVEL, REPLICATES, Estimate, Interval, PromptMeans, Replicates, prompt_means
from contrapose.files import write_text
from contrapose.ranges import Count, Range, Seed, Share, checked

MEND = "delete it and run the command that made it again"
FLOOR, CEILING = "floor", "ceiling"  # bounds, not contestants: their images share no noise with any model's


@dataclass(frozen=True)
@checked
class Settings:
    """How rows are summed up."""

    base: str | None = None
    """The model that others are compared with; none compares nothing."""
    lower_is_better: frozenset[str] = frozenset()
    """Metrics of which a smaller value is the better one."""
    replicates: Replicates = REPLICATES
    """Bootstrap replicates, and flips of the sign-flip test."""
    level: Annotated[float, Range(0, 1, low_open=True, high_open=True)] = LEVEL
    """Of the intervals."""
    seed: Seed = 0
    """Of the bootstrap and the test."""


@dataclass(frozen=True)
class Metric:
    """How to read one metric."""

    higher_is_better: bool


@dataclass(frozen=True)
@checked
class Scores:
    """One model's own scores."""

    num_prompts: Count
    num_images: Count
    tags: dict[str, int]
    """Number of prompts of each tag."""
    metrics: dict[str, Estimate]


@dataclass(frozen=True)
@checked
class Comparison:
    """One model against the base by one metric."""

    difference: Interval
    tags: dict[str, Interval]
    p: Share
    win_rate: Interval
    p_holm: Share


@dataclass(frozen=True)
@checked
class Summary:
    """What `summary.json` says; its schema stands in this module's docstring.

    Raises `UserError` for parts that do not fit each other.
    """

    base: str | None
    level: Annotated[float, Range(0, 1, low_open=True, high_open=True)]
    replicates: Count
    seed: Seed
    metrics: dict[str, Metric]
    models: dict[str, Scores]
    comparisons: dict[str, dict[str, Comparison]]

    def __post_init__(self) -> None:
        if self.base is not None and self.base not in self.models:
            raise UserError(f"base {self.base} is none of the models")
        judged = {metric for scores in self.models.values() for metric in scores.metrics}
        if not judged or judged != set(self.metrics):
            raise UserError("metrics are not those of the models")
        for model, compared in self.comparisons.items():
            sides = [self.models.get(model), self.models.get(self.base or "")]
            if any(side is None or set(side.metrics) != set(compared) for side in sides):
                raise UserError(f"comparison of {model} does not fit the models")


CONVERTER = runfile.converter()


def summarize(rows: Sequence[Row], settings: Settings = Settings()) -> Summary:
    """The summary of all rows.

    Raises `UserError` when there are no rows, or the base has none, or models were not judged on the same images.
    """
    models, metrics = list(dict.fromkeys(row.model for row in rows)), list(dict.fromkeys(row.metric for row in rows))
    if not rows:
        raise UserError("there are no rows to sum up; evaluate some images first")
    if settings.base is not None and settings.base not in models:
        raise UserError(f"base {settings.base!r} was not evaluated; choose one of {', '.join(models)}")
    contestants = [m for m in models if m not in (settings.base, FLOOR, CEILING)] if settings.base is not None else []
    return Summary(
        settings.base,
        settings.level,
        settings.replicates,
        settings.seed,
        {metric: Metric(metric not in settings.lower_is_better) for metric in metrics},
        {model: _scores([row for row in rows if row.model == model], settings) for model in models},
        {model: _comparison(rows, model, metrics, settings) for model in contestants},
    )


def write_summary(summary: Summary | None, path: Path, beside: Mapping[str, Any] | None = None) -> None:
    """Write a summary as JSON, whole or not at all, with what else is to stand in the file before it."""
    values = dict(beside or {})
    if summary is not None:
        values |= CONVERTER.unstructure(summary)
    write_text(path, json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_summary(path: Path) -> Summary:
    """A summary from JSON; what a sweep says of itself in the same file is left out.

    Raises `UserError` naming the file when it is missing, broken, or no summary.
    """
    if not path.is_file():
        raise UserError(f"{path}: missing, so this is no evidence; make it with 'contrapose evaluate'")
    values = load_json(path, MEND)
    if isinstance(values, dict):
        values.pop("sweep", None)
    return runfile.structured(path, values, Summary, CONVERTER, MEND)


def _scores(rows: Sequence[Row], settings: Settings) -> Scores:
    tag_of = {row.prompt_id: row.tag for row in rows}
    metrics: dict[str, Estimate] = {}
    for metric in dict.fromkeys(row.metric for row in rows):
        chosen = list(evidence.select(rows, rows[0].model, metric).values())
        values = np.array([row.value for row in chosen])
        means = prompt_means(values, [row.prompt_id for row in chosen], [row.tag for row in chosen])
        metrics[metric] = _bootstrap(means, settings)
    tags = list(tag_of.values())
    return Scores(
        len(tag_of),
        len({(row.prompt_id, row.seed) for row in rows}),
        {tag: tags.count(tag) for tag in dict.fromkeys(tags)},
        metrics,
    )


def _comparison(rows: Sequence[Row], model: str, metrics: Collection[str], settings: Settings) -> dict[str, Comparison]:
    assert settings.base is not None
    estimates: dict[str, tuple[Estimate, float, Interval]] = {}
    for metric in metrics:
        both = evidence.paired(rows, model, settings.base, metric)
        differences = prompt_means(both.a - both.b, both.prompt_ids, both.tags)
        better, worse = (both.b, both.a) if metric in settings.lower_is_better else (both.a, both.b)
        rates = prompt_means(statistics.wins(better, worse), both.prompt_ids, both.tags)
        p = statistics.sign_flip(differences, flips=settings.replicates, seed=settings.seed)
        estimates[metric] = _bootstrap(differences, settings), p, _bootstrap(rates, settings).overall
    adjusted = statistics.holm([p for _, p, _ in estimates.values()])
    return {
        metric: Comparison(estimate.overall, estimate.tags, p, win_rate, p_holm)
        for (metric, (estimate, p, win_rate)), p_holm in zip(estimates.items(), adjusted, strict=True)
    }


def _bootstrap(means: PromptMeans, settings: Settings) -> Estimate:
    return statistics.bootstrap(means, replicates=settings.replicates, level=settings.level, seed=settings.seed)
