"""Labels by scores, as people would give them: the better of a pair, likes, rankings, with ties and mistakes.

How good a sample is, and which are equals, is its standing (`standings.py`).

Which mistakes are made goes by the seed and each group's identifier alone: other groups, or more of them, change none,
and a larger share of mistakes keeps those of a smaller one.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from contrapose.containers.left_out import LeftOut
from contrapose.errors import UserError
from contrapose.files import one_writer
from contrapose.judges.weights import settled_weights
from contrapose.labels.regrouped import Regrouped, Samples, check_identifiers, directions, origin
from contrapose.labels.settings import CONVERTER, Labelling
from contrapose.labels.standings import Column, Standing, by_fronts, by_sum, mean_win_rates
from contrapose.seeds import python_stream
from contrapose.store.groups import GroupStore
from contrapose.store.ranking import ranked
from contrapose.store.records import GroupRecord
from contrapose.store.shards import begin, fill

WIN_RATE = "win_rate"
"""The score beside the judges' that pareto leaves: a sample's mean win rate in its group."""


class GroupLabels(NamedTuple):
    """Samples of a group by their places, a label for each, and how many of these labels are mistakes."""

    places: tuple[int, ...]
    labels: tuple[float, ...]
    num_mistakes: int = 0


@dataclass(frozen=True)
class LabelPlan:
    """The labelled groups, those that were left out with their reason, and how many labels are mistakes."""

    groups: Samples
    left_out: list[LeftOut]
    num_mistakes: int


def plan_labels(settings: Labelling, store: GroupStore) -> LabelPlan:
    """Label every group of a store.

    Raises `UserError` for a score that a group does not have, one of which less is better and that has no weight, a
    group of one sample where samples are compared, and where ties are all that there is; by pareto also for groups that
    have win rates already.
    """
    check_identifiers(store)
    better = {name: direction == "higher" for name, direction in directions(store).items()}
    weights = settled_weights("by", settings.weights, better)
    if settings.combine == "pareto" and WIN_RATE in store.records.score_names():
        raise UserError(f"{store.folder}: its groups have {WIN_RATE} already; label those that they were made of")
    left_out: list[LeftOut] = []
    num_mistakes = 0

    def labelled() -> Iterator[Regrouped]:
        nonlocal num_mistakes
        for row, record in enumerate(store.records):
            for group, decided in _labelled(settings, store, weights, row, record):
                if settings.ties == "drop" and set(decided.labels) == {0.5}:
                    left_out.append(LeftOut(group.record.id, "tie", "a tie; it is kept with --ties half"))
                    continue
                num_mistakes += decided.num_mistakes
                yield group

    groups = Samples.of(store, labelled())
    if not groups:
        raise UserError(
            f"{store.folder}: all of its groups are tied; keep them with --ties half, or take a smaller --tie-margin "
            "or fewer scores"
        )
    return LabelPlan(groups, left_out, num_mistakes)


def label_groups(settings: Labelling, store: GroupStore, plan: LabelPlan, out: Path) -> Iterator[int]:
    """Write the planned groups into `out`, yielding the number done so far; run it again to carry on.

    Raises `UserError` where `out` holds groups of other settings or of another store.
    """
    samples = plan.groups
    shards = samples.shards(settings.shard_size)
    records = (record for _, shard in shards for record in shard)
    sections = {**origin(store), "label": settings}
    if settings.combine == "pareto":
        sections["scores"] = {**directions(store), WIN_RATE: "higher"}
    fingerprint = store.fingerprint
    inputs = {"label.groups": store.digest}
    with one_writer(out):
        begin(out, sections, CONVERTER, fingerprint, records, plan.left_out, inputs, masked=samples.masked)
        yield from fill(out, shards, settings.shard_size, samples.latents, samples.masks)


def _labelled(
    settings: Labelling, store: GroupStore, weights: Mapping[str, float], row: int, record: GroupRecord
) -> Iterator[tuple[Regrouped, GroupLabels]]:
    """What becomes of a group; raises `UserError` where it cannot be labelled."""
    if record.num_samples == 1 and settings.form != "likes":
        raise UserError(f"{store.folder}: record {record.id}: has one sample, and {settings.form} compare several")
    columns = _columns(store, record, weights)
    scores = dict(record.scores)
    if settings.combine == "pareto":
        standings = by_fronts(columns)
        scores[WIN_RATE] = tuple(mean_win_rates(columns))
    else:
        standings = by_sum(columns)
    scored = replace(record, scores=scores)
    for decided in _FORMS[settings.form](settings, standings, python_stream(settings.seed, "mistakes", record.id)):
        yield _group(scored, row, decided), decided


def _columns(store: GroupStore, record: GroupRecord, weights: Mapping[str, float]) -> list[Column]:
    """Each score of all samples, times its weight."""
    columns: list[Column] = []
    for name, weight in weights.items():
        if name not in record.scores:
            scores = ", ".join(sorted(record.scores)) or "none"
            raise UserError(
                f"{store.folder}: record {record.id}: has no score {name} (it has {scores}); 'contrapose pairs score' "
                "gives groups scores"
            )
        columns.append([weight * number for number in record.scores[name]])
    return columns


def _group(record: GroupRecord, row: int, decided: GroupLabels) -> Regrouped:
    """The samples that were decided on as a group; singles of one group are told apart by their place."""
    is_single = len(decided.places) == 1
    name = f"{record.id}-{decided.places[0] + 1}" if is_single else record.id
    scores: dict[str, tuple[float, ...]] = {}
    for score, numbers in record.scores.items():
        scores[score] = tuple(numbers[place] for place in decided.places)
    # which sample was drawn from a degraded prompt does not say any more which is the loser
    labelled = GroupRecord(name, record.prompt, "", record.seed, decided.labels, scores)
    return Regrouped(labelled, row, decided.places)


def _pair(settings: Labelling, standings: Sequence[Standing], rng: random.Random) -> list[GroupLabels]:
    """The best and the worst of a group; of equal ones the first is the best, and the last the worst."""
    best = standings.index(max(standings))
    worst = len(standings) - 1 - standings[::-1].index(min(standings))
    mistaken = rng.random() < settings.mistakes
    if standings[best].level - standings[worst].level <= settings.tie_margin:
        return [GroupLabels((best, worst), (0.5, 0.5))]
    places = (worst, best) if mistaken else (best, worst)
    return [GroupLabels(places, (1.0, 0.0), int(mistaken))]


def _likes(settings: Labelling, standings: Sequence[Standing], rng: random.Random) -> list[GroupLabels]:
    """A like or a dislike of each sample, by the threshold or its group's mean; of fronts the first one is liked."""
    levels = [standing.level for standing in standings]
    threshold = sum(levels) / len(levels) if settings.threshold is None else settings.threshold
    if settings.combine == "pareto" and min(levels) < 0:
        threshold = -0.5
    labelled = []
    for place, number in enumerate(levels):
        mistaken = rng.random() < settings.mistakes
        if abs(number - threshold) <= settings.tie_margin:
            labelled.append(GroupLabels((place,), (0.5,)))
            continue
        liked = (number > threshold) != mistaken
        labelled.append(GroupLabels((place,), (float(liked),), int(mistaken)))
    return labelled


def _ranking(settings: Labelling, standings: Sequence[Standing], rng: random.Random) -> list[GroupLabels]:
    """All samples at even distances, 1 for the best and 0 for the last; what ties with the best of a rank shares it."""
    ranking = ranked([standing.level for standing in standings], settings.tie_margin)
    order, ranks = ranking
    num_mistakes = 0
    # from the best down, so that a sample may fall by several ranks and rise by one
    for upper, lower in pairwise(range(len(order))):
        if rng.random() < settings.mistakes and ranks[upper] != ranks[lower]:
            order[upper], order[lower] = order[lower], order[upper]
            num_mistakes += 1
    return [GroupLabels(tuple(range(len(order))), ranking.labels, num_mistakes)]


_FORMS: dict[str, Callable[[Labelling, Sequence[Standing], random.Random], list[GroupLabels]]] = {
    "pairs": _pair,
    "likes": _likes,
    "rankings": _ranking,
}
