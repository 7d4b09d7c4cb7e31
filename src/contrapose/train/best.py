"""Which of a run's kept steps its judge finds best, by the scores of the watched prompts' images."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from contrapose.evaluate.statistics import PromptMeans, bootstrap, mean_of_tags, prompt_means
from contrapose.runs.best import BestStep, Spread
from contrapose.runs.watched import About, read_about, watched_folder


def spread(means: PromptMeans) -> Spread:
    """The mean over prompts with its interval, a category counting as much as another, as in an evaluation."""
    interval = bootstrap(means).overall
    if len(means.values) < 2:
        return Spread(interval.value)
    return Spread(interval.value, interval.low, interval.high)


def means_of(about: About, metric: str) -> PromptMeans:
    """What a judge says of each prompt."""
    return prompt_means(np.array(about.scores[metric].values), about.prompts, about.tags)


def best_of(run: Path, steps: Iterable[int]) -> BestStep | None:
    """The best of these steps by the first judge's first metric, the earliest of equals; None where none is judged.

    The same prompts that chose it tell its score, so that this is a little flattering: other prompts are to confirm it.
    """
    judged: dict[int, About] = {}
    for step in steps:
        about = read_about(watched_folder(run, step))
        if about is not None and about.scores:
            judged[step] = about
    if not judged:
        return None
    last = max(judged)
    metric, scored = next(iter(judged[last].scores.items()))
    # steps that other prompts or another judge scored do not compare
    means: dict[int, PromptMeans] = {}
    for step, about in judged.items():
        if _is_comparable(about, judged[last], metric):
            means[step] = means_of(about, metric)
    sign = 1 if scored.higher_is_better else -1
    best = max(means, key=lambda step: (sign * mean_of_tags(means[step]), -step))
    start = read_about(watched_folder(run, 0))
    over_start = None
    if start is not None and _is_comparable(start, judged[last], metric):
        over_start = _difference(means[best], means_of(start, metric))
    return BestStep(
        step=best,
        metric=metric,
        score=spread(means[best]),
        last_step=last,
        last_score=spread(means[last]),
        over_last=_difference(means[best], means[last]),
        over_start=over_start,
    )


def _is_comparable(about: About, other: About, metric: str) -> bool:
    """Whether one judge scored the same images' prompts at both steps."""
    if metric not in about.scores or about.drawn != other.drawn:
        return False
    return about.prompts == other.prompts and about.scores[metric].version == other.scores[metric].version


def _difference(first: PromptMeans, second: PromptMeans) -> Spread:
    """The first minus the second, prompt by prompt."""
    return spread(PromptMeans(first.values - second.values, first.tags))
