"""From rows to the numbers of a report: scores, and every model against the base.

A difference keeps the metric's own sign; a win is always the better image. Every overall number, the win rate too, is
the mean of the tags' means. Models and metrics appear in the order of their first row. Models named METHOD/SEED are
runs of one method: they have their own numbers, and together the method's, which allow for other training seeds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from contrapose.errors import UserError
from contrapose.evaluate import rows as evidence
from contrapose.evaluate import statistics, training_seeds
from contrapose.evaluate.alarm import alarms, held_out_of
from contrapose.evaluate.rows import EvidenceRow, Paired, Rows
from contrapose.evaluate.statistics import (
    LEVEL,
    REPLICATES,
    PromptMeans,
    Replicates,
    TagIntervals,
    prompt_means,
)
from contrapose.evaluate.summary import BOUNDS, Comparison, Level, MethodScores, Metric, ModelScores, Summary
from contrapose.evaluate.training_seeds import DIFFERENCES_OF_SHARES, SHARES, UNBOUNDED, SeedMeans
from contrapose.ranges import Seed, checked


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
    trained_for: tuple[str, ...] = ()
    """Metrics that models were trained for, on which a gain that no other metric shares raises an alarm."""
    not_held_out: tuple[str, ...] = ()
    """Further metrics that are no independent judges of these gains."""


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
    summary = Summary(
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
    if not settings.trained_for or settings.base is None:
        return summary
    notes = summary.notes
    if not held_out_of(summary, settings.trained_for, settings.not_held_out):
        notes += (
            f"Trained for {', '.join(settings.trained_for)}, and judged by nothing that was held out of training: "
            "whether a gain is more than a hacked judge cannot be told.",
        )
    return replace(summary, alarms=alarms(summary, settings.trained_for, settings.not_held_out), notes=notes)


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
    compared: dict[str, Comparison] = {}
    for metric in metrics:
        both = evidence.paired(rows, model, settings.base, metric)
        means = prompt_means(both.a - both.b, both.prompt_ids, both.tags)
        difference = _bootstrap(means, settings)
        p = statistics.sign_flip(means, flips=settings.replicates, seed=settings.seed)
        compared[metric] = Comparison(
            difference=difference.overall,
            tags=difference.tags,
            p=p,
            win_rate=_bootstrap(_wins(both, metric, settings), settings).overall,
            p_holm=p,
            smallest_difference=_smallest(means.values[None], means.tags, settings),
        )
    return _adjusted(compared, settings)


def _method(rows: Rows, runs: Sequence[str], metrics: Collection[str], settings: SummarySettings) -> MethodScores:
    """The runs of one method as one, and against the base where there is one."""
    scores: dict[str, TagIntervals] = {}
    compared: dict[str, Comparison] = {}
    # without a base, the first run stands for the images that all of them must have been judged on
    base = runs[0] if settings.base is None else settings.base
    for metric in metrics:
        pairs = [evidence.paired(rows, run, base, metric) for run in runs]
        of_runs = [prompt_means(both.a, both.prompt_ids, both.tags) for both in pairs]
        are_verdicts = all(np.isin([both.a, both.b], (0.0, 1.0)).all() for both in pairs)
        of_scores = SHARES if are_verdicts else UNBOUNDED
        of_gains = DIFFERENCES_OF_SHARES if are_verdicts else UNBOUNDED
        scores[metric] = training_seeds.by_tag(_of_seeds(of_runs), level=settings.level, within=of_scores)
        if settings.base is None:
            continue
        gains = _of_seeds([prompt_means(both.a - both.b, both.prompt_ids, both.tags) for both in pairs])
        wins = _of_seeds([_wins(both, metric, settings) for both in pairs])
        difference = training_seeds.by_tag(gains, level=settings.level, within=of_gains)
        p = training_seeds.p_value(gains)
        compared[metric] = Comparison(
            difference=difference.overall,
            tags=difference.tags,
            p=p,
            win_rate=training_seeds.over_seeds(wins, level=settings.level, within=SHARES),
            p_holm=p,
            smallest_difference=_smallest(gains.values, gains.tags, settings),
        )
    return MethodScores(tuple(runs), scores, _adjusted(compared, settings))


def _adjusted(compared: Mapping[str, Comparison], settings: SummarySettings) -> dict[str, Comparison]:
    """The comparisons with Holm's p over the metrics that have a better direction."""
    tested = [metric for metric in compared if settings.higher_is_better.get(metric, True) is not None]
    adjusted = dict(compared)
    for metric, p in zip(tested, statistics.holm([compared[metric].p for metric in tested]), strict=True):
        adjusted[metric] = replace(compared[metric], p_holm=p)
    return adjusted


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
    smallest = training_seeds.smallest_difference(SeedMeans(values, tags), level=settings.level)
    # where prompts differ by rounding alone, they tell nothing of other prompts
    return smallest if smallest > 1e-9 * np.abs(values).max() else 0.0


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
