"""From rows to the numbers of a report: scores, and every model against the base.

A difference keeps the metric's own sign; a win is always the better image. Every overall number, the win rate too, is
the mean of the tags' means. Models and metrics appear in the order of their first row. Models named METHOD/SEED are
runs of one method: they have their own numbers, and together the method's, which allow for other training seeds. Every
two such methods are compared with each other too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

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
from contrapose.evaluate.summary import (
    BOUNDS,
    Comparison,
    Level,
    MethodPair,
    MethodScores,
    Metric,
    ModelScores,
    Summary,
)
from contrapose.evaluate.training_seeds import DIFFERENCES_OF_SHARES, SHARES, UNBOUNDED, Ends, SeedMeans
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
    # floor and ceiling are no models, and a gain of theirs is no finding
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
    pairs: dict[tuple[str, str], dict[str, Comparison]] = {}
    for first, second in combinations(runs_of, 2):
        pairs[first, second] = _pair(columns, runs_of[first], runs_of[second], metrics, settings)
    summary = Summary(
        base=settings.base,
        level=settings.level,
        replicates=settings.replicates,
        seed=settings.seed,
        metrics={metric: Metric(settings.higher_is_better.get(metric, True)) for metric in metrics},
        models=scores,
        comparisons=comparisons,
        methods=methods,
        pairs=_pairs(pairs, settings),
        notes=(*_notes(contestants, runs_of), *_of_repeated(columns)),
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
        # image by image: prompt and noise are the same, and what they do to both falls away
        both = evidence.paired(rows, model, settings.base, metric)
        means = prompt_means(both.a - both.b, both.prompt_ids, both.tags)
        difference = _bootstrap(means, settings)
        several = len(means.tags) > 1
        p = statistics.sign_flip(means, flips=settings.replicates, seed=settings.seed)
        compared[metric] = Comparison(
            difference=difference.overall,
            tags=difference.tags,
            p=p,
            win_rate=_bootstrap(_wins(both, metric, settings), settings).overall,
            p_holm=p,
            smallest_difference=_smallest(SeedMeans(means.values[None], means.tags), settings) if several else None,
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
        are_verdicts = _are_verdicts(pairs)
        of_scores = SHARES if are_verdicts else UNBOUNDED
        of_gains = DIFFERENCES_OF_SHARES if are_verdicts else UNBOUNDED
        scores[metric] = training_seeds.by_tag(_of_seeds(of_runs), level=settings.level, within=of_scores)
        if settings.base is None:
            continue
        gains = _of_seeds([prompt_means(both.a - both.b, both.prompt_ids, both.tags) for both in pairs])
        wins = _of_seeds([_wins(both, metric, settings) for both in pairs])
        compared[metric] = _over_seeds(gains, wins, of_gains, settings)
    return MethodScores(tuple(runs), scores, _adjusted(compared, settings))


def _pair(
    rows: Rows, first: Sequence[str], second: Sequence[str], metrics: Collection[str], settings: SummarySettings
) -> dict[str, Comparison]:
    """The runs of one method against those of another, each run against each where wins are counted."""
    compared: dict[str, Comparison] = {}
    for metric in metrics:
        of_first: list[PromptMeans] = []
        of_second: list[PromptMeans] = []
        wins_of: list[NDArray[np.float64]] = []
        are_verdicts = True
        for run in first:
            against = [evidence.paired(rows, run, other, metric) for other in second]
            of_first.append(prompt_means(against[0].a, against[0].prompt_ids, against[0].tags))
            of_second = [prompt_means(both.b, both.prompt_ids, both.tags) for both in against]
            wins_of.append(_of_seeds([_wins(both, metric, settings) for both in against]).values)
            are_verdicts = are_verdicts and _are_verdicts(against)
        gains = SeedMeans(_of_seeds(of_first).values, of_first[0].tags, _of_seeds(of_second).values)
        # [s, r, p]: the share of a prompt's images that are better, run by run
        wins = np.stack(wins_of)
        # what a run of the second method changes in the mean over the first's, so that the difference is the mean
        changes = wins.mean((0, 1)) - wins.mean(0)
        within = DIFFERENCES_OF_SHARES if are_verdicts else UNBOUNDED
        compared[metric] = _over_seeds(gains, SeedMeans(wins.mean(1), gains.tags, changes), within, settings)
    return compared


def _are_verdicts(pairs: Iterable[Paired]) -> bool:
    """Whether all values are 0 or 1, whose means are shares."""
    return all(np.isin([both.a, both.b], (0.0, 1.0)).all() for both in pairs)


def _over_seeds(gains: SeedMeans, wins: SeedMeans, within: Ends, settings: SummarySettings) -> Comparison:
    """What gains and wins of several training seeds say; its p is still to be adjusted."""
    difference = training_seeds.by_tag(gains, level=settings.level, within=within)
    p = training_seeds.p_value(gains)
    return Comparison(
        difference=difference.overall,
        tags=difference.tags,
        p=p,
        win_rate=training_seeds.over_seeds(wins, level=settings.level, within=SHARES),
        p_holm=p,
        smallest_difference=_smallest(gains, settings),
    )


def _pairs(
    pairs: Mapping[tuple[str, str], Mapping[str, Comparison]], settings: SummarySettings
) -> tuple[MethodPair, ...]:
    """All pairs of methods, their p adjusted over all that is tested of any of them."""
    tested: list[tuple[tuple[str, str], str]] = []
    for names, compared in pairs.items():
        tested += [(names, metric) for metric in _directed(compared, settings)]
    adjusted = {names: dict(compared) for names, compared in pairs.items()}
    by_holm = statistics.holm([pairs[names][metric].p for names, metric in tested])
    for (names, metric), p in zip(tested, by_holm, strict=True):
        adjusted[names][metric] = replace(pairs[names][metric], p_holm=p)
    return tuple(MethodPair(first, second, compared) for (first, second), compared in adjusted.items())


def _adjusted(compared: Mapping[str, Comparison], settings: SummarySettings) -> dict[str, Comparison]:
    """The comparisons with Holm's p over the metrics that have a better direction."""
    tested = _directed(compared, settings)
    adjusted = dict(compared)
    for metric, p in zip(tested, statistics.holm([compared[metric].p for metric in tested]), strict=True):
        adjusted[metric] = replace(compared[metric], p_holm=p)
    return adjusted


def _directed(metrics: Iterable[str], settings: SummarySettings) -> list[str]:
    """The metrics that have a better direction."""
    return [metric for metric in metrics if settings.higher_is_better.get(metric, True) is not None]


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


def _smallest(means: SeedMeans, settings: SummarySettings) -> float:
    smallest = training_seeds.smallest_difference(means, level=settings.level)
    # where prompts differ by rounding alone, they tell nothing of other prompts
    largest = max(float(np.abs(values).max()) for values in means.sides)
    return smallest if smallest > 1e-9 * largest else 0.0


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


def _of_repeated(rows: Rows) -> tuple[str, ...]:
    """A warning of prompts that have several folders, each of which counts as a prompt."""
    folders = Counter(evidence.text_of(name) for name in rows.tags_of(rows.models[0]))
    repeated = [number for number in folders.values() if number > 1]
    if not repeated:
        return ()
    return (
        f"{len(repeated)} of {len(folders)} prompts have several folders each, {sum(repeated)} in all, which count as "
        "prompts of their own. Images of one prompt are alike, so that intervals are too narrow and p too small; they "
        "are right where all images of a prompt lie in one folder.",
    )


def _bootstrap(means: PromptMeans, settings: SummarySettings) -> TagIntervals:
    return statistics.bootstrap(means, replicates=settings.replicates, level=settings.level, seed=settings.seed)
