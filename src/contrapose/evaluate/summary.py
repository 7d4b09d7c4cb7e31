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
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from contrapose.errors import UserError
from contrapose.evaluate import rows as evidence
from contrapose.evaluate import statistics
from contrapose.evaluate.rows import Row
from contrapose.evaluate.statistics import LEVEL, REPLICATES, Estimate, PromptMeans, prompt_means
from contrapose.files import replacing

FLOOR, CEILING = "floor", "ceiling"  # bounds, not contestants: their images share no noise with any model's


@dataclass(frozen=True)
class Settings:
    """How rows are summed up."""

    base: str | None = None
    """The model that others are compared with; none compares nothing."""
    lower_is_better: frozenset[str] = frozenset()
    """Metrics of which a smaller value is the better one."""
    replicates: int = REPLICATES
    """Bootstrap replicates, and flips of the sign-flip test."""
    level: float = LEVEL
    """Of the intervals."""
    seed: int = 0
    """Of the bootstrap and the test."""


def summarize(rows: Sequence[Row], settings: Settings = Settings()) -> dict[str, Any]:
    """The summary of all rows, ready for JSON; its schema stands in this module's docstring.

    Raises `UserError` when there are no rows, or the base has none, or models were not judged on the same images.
    """
    models, metrics = list(dict.fromkeys(row.model for row in rows)), list(dict.fromkeys(row.metric for row in rows))
    if not rows:
        raise UserError("there are no rows to sum up; evaluate some images first")
    if settings.base is not None and settings.base not in models:
        raise UserError(f"base {settings.base!r} was not evaluated; choose one of {', '.join(models)}")
    contestants = [m for m in models if m not in (settings.base, FLOOR, CEILING)] if settings.base is not None else []
    return {
        "base": settings.base,
        "level": settings.level,
        "replicates": settings.replicates,
        "seed": settings.seed,
        "metrics": {metric: {"higher_is_better": metric not in settings.lower_is_better} for metric in metrics},
        "models": {model: _scores([row for row in rows if row.model == model], settings) for model in models},
        "comparisons": {model: _comparison(rows, model, metrics, settings) for model in contestants},
    }


def write_summary(summary: dict[str, Any], path: Path) -> None:
    """Write a summary as JSON, whole or not at all."""
    with replacing(path) as aside:
        aside.write_text(json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def _scores(rows: Sequence[Row], settings: Settings) -> dict[str, Any]:
    tag_of = {row.prompt_id: row.tag for row in rows}
    metrics: dict[str, Any] = {}
    for metric in dict.fromkeys(row.metric for row in rows):
        chosen = list(evidence.select(rows, rows[0].model, metric).values())
        values = np.array([row.value for row in chosen])
        means = prompt_means(values, [row.prompt_id for row in chosen], [row.tag for row in chosen])
        metrics[metric] = asdict(_bootstrap(means, settings))
    return {
        "num_prompts": len(tag_of),
        "num_images": len({(row.prompt_id, row.seed) for row in rows}),
        "tags": {tag: list(tag_of.values()).count(tag) for tag in dict.fromkeys(tag_of.values())},
        "metrics": metrics,
    }


def _comparison(rows: Sequence[Row], model: str, metrics: Collection[str], settings: Settings) -> dict[str, Any]:
    assert settings.base is not None
    compared: dict[str, Any] = {}
    for metric in metrics:
        both = evidence.paired(rows, model, settings.base, metric)
        differences = prompt_means(both.a - both.b, both.prompt_ids, both.tags)
        better, worse = (both.b, both.a) if metric in settings.lower_is_better else (both.a, both.b)
        rates = prompt_means(statistics.wins(better, worse), both.prompt_ids, both.tags)
        estimate = _bootstrap(differences, settings)
        compared[metric] = {
            "difference": asdict(estimate.overall),
            "tags": {tag: asdict(interval) for tag, interval in estimate.tags.items()},
            "p": statistics.sign_flip(differences, flips=settings.replicates, seed=settings.seed),
            "win_rate": asdict(_bootstrap(rates, settings).overall),
        }
    for entry, adjusted in zip(compared.values(), statistics.holm([e["p"] for e in compared.values()]), strict=True):
        entry["p_holm"] = adjusted
    return compared


def _bootstrap(means: PromptMeans, settings: Settings) -> Estimate:
    return statistics.bootstrap(means, replicates=settings.replicates, level=settings.level, seed=settings.seed)
