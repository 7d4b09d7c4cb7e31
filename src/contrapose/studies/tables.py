"""The tables of a study: what was chosen on dev prompts with all scores, and our figures beside published ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from contrapose.errors import UserError
from contrapose.evaluate.evidence import SUMMARY
from contrapose.evaluate.statistics import Interval
from contrapose.evaluate.summary import Summary, read_summary
from contrapose.report.numbers import Scale, supported
from contrapose.report.tables import NOTHING, Sheet, TableCell
from contrapose.studies.choosing import RULES, DevChoices, DevScore
from contrapose.studies.contestants import contestants
from contrapose.studies.settings import Column, PublishedFigures
from contrapose.studies.stages import evidence_folder, tried_at


def study_sheets(choices: DevChoices) -> Iterator[Sheet]:
    """The tables of a study that has been run."""
    study = choices.study
    if study.published is not None:
        yield from beside_published(choices, study.published)
    if study.choosing is not None:
        yield dev_scores(choices)
        if any(map(study.is_tried, study.methods)):
            yield dev_tries(choices)


def dev_scores(measured: DevChoices) -> Sheet:
    """Every candidate's scores on the dev prompts, those that were chosen in bold."""
    study = measured.study
    assert study.choosing is not None
    intervals = [Interval(score, score, score) for candidate in measured.scores for score in candidate.scores]
    scale = supported(intervals)
    steps = ("checkpoint",) if study.choosing.checkpoints else ()
    rows: list[tuple[TableCell, ...]] = []
    for candidate in measured.scores:
        picked = measured.picked(candidate.group)
        is_chosen = (candidate.scale, candidate.checkpoint) == picked
        name, step, *numbers = _dev_row(candidate, len(study.seeds), scale, is_chosen)
        rows.append((name, step, *numbers) if steps else (name, *numbers))
    seeds = tuple(f"training seed {seed}" for seed in study.seeds)
    note = (
        f"{_by(measured)} on dev prompts, which are none of those that are reported on. "
        f"Bold is chosen: {RULES[study.choosing.rule].words}, ties to the smaller scale, then to fewer steps."
    )
    head = ("model", *steps, "guidance scale", "mean", *seeds)
    return Sheet("Guidance scales on dev prompts", head, tuple(rows), note, num_names=2 + len(steps))


def dev_tries(measured: DevChoices) -> Sheet:
    """Every try's score on the dev prompts, those that were chosen in bold."""
    study = measured.study
    options = tuple(dict.fromkeys(name for method in study.methods for name in study.tries_of(method)[0].values))
    tried = {method: measured.tries(method) for method in study.methods if study.is_tried(method)}
    scores = [each.score for tries in tried.values() for each in tries]
    scale = supported(Interval(score, score, score) for score in scores)
    rows: list[tuple[TableCell, ...]] = []
    for method, tries in tried.items():
        chosen = measured.tried(method)
        for number, each in enumerate(tries, start=1):
            values = [str(each.values.values.get(option, NOTHING)) for option in options]
            names = map(TableCell, (method, f"{number} of {len(tries)}", *values))
            rows.append((*names, TableCell(scale.text(each.score), is_best=each.values == chosen)))
    note = (
        f"{_by(measured)} on dev prompts at guidance scale {tried_at(study)}, with training seed {study.seeds[0]}. "
        "Bold is chosen: the best score, ties to the earlier try; all other seeds are trained with it. "
        f"{study.budget}"
    )
    head = ("model", "try", *options, "score")
    return Sheet("Tries on dev prompts", head, tuple(rows), note, num_names=2 + len(options))


def _by(measured: DevChoices) -> str:
    return f"By {', '.join(measured.by.entries)} ({measured.study.deciding})"


def _dev_row(candidate: DevScore, num_seeds: int, scale: Scale, is_chosen: bool) -> tuple[TableCell, ...]:
    mean = sum(candidate.scores) / len(candidate.scores)
    step = NOTHING if candidate.checkpoint is None else str(candidate.checkpoint)
    names = (candidate.group, step, f"{candidate.scale:g}")
    # the base has no training seed, so that its score is its mean alone
    scores = [NOTHING] * num_seeds
    if len(candidate.scores) == num_seeds:
        scores = [scale.text(score) for score in candidate.scores]
    return (*map(TableCell, names), TableCell(scale.text(mean), is_best=is_chosen), *map(TableCell, scores))


def beside_published(choices: DevChoices, published: PublishedFigures) -> Iterator[Sheet]:
    """For each shared scale, and for each model's own, a row a model: our figure and the published one by column."""
    study = choices.study
    models: dict[str, str] = {}  # of several training seeds the first
    for contestant in contestants(study, choices.tried):
        models.setdefault(contestant.group, contestant.name)
    shown = {f"scale-{scale:g}": f"guidance scale {scale:g}" for scale in study.scales}
    if study.choosing is not None:
        shown["best"] = "each model at its own guidance scale"
    for at, words in shown.items():
        names = {column.evaluation for column in study.columns.values() if column.evaluation is not None}
        summaries = {name: read_summary(evidence_folder(study, name, at) / SUMMARY) for name in names}
        measured: dict[str, dict[str, TableCell]] = {}
        for heading, column in study.columns.items():
            measured[heading] = {}
            if column.evaluation is not None:
                _check_measured(heading, column, summaries[column.evaluation])
                measured[heading] = _ours(models, column, summaries[column.evaluation])
        rows = []
        for row in dict.fromkeys([*models, *published.rows]):
            cells = [TableCell(row)]
            for heading, figures in measured.items():
                figure = published.rows.get(row, {}).get(heading)
                cells.append(figures.get(row, TableCell(NOTHING)))
                cells.append(TableCell(NOTHING if figure is None else f"{figure:g}"))
            rows.append(tuple(cells))
        head = ["model"]
        for heading in study.columns:
            head += [heading, f"{heading}, published"]
        note = " ".join([f"Published: {published.source}.", *published.notes])
        yield Sheet(f"Beside published figures: {words}", tuple(head), tuple(rows), note)


def _check_measured(heading: str, column: Column, summary: Summary) -> None:
    """Raise `UserError` for a metric that the column's evaluation does not have; numbers of sets have no win rate."""
    measured = list(summary.metrics)
    if summary.sets is not None and column.of == "score":
        measured += summary.sets.higher_is_better
    if column.metric and column.metric not in measured:
        raise UserError(f"columns {heading}: {column.metric} has no {column.of} (known: {', '.join(measured)})")


def _ours(models: Mapping[str, str], column: Column, summary: Summary) -> dict[str, TableCell]:
    """Each model's figure in one column, of several training seeds their mean."""
    intervals: dict[str, Interval] = {}
    for group, name in models.items():
        wins = column.of == "win-rate"
        figure = _win_rate(summary, group, column) if wins else _figure(summary, group, name, column)
        if figure is not None:
            intervals[group] = figure.scaled(column.factor)
    scale = supported(intervals.values())
    cells = {group: scale.cell(interval) for group, interval in intervals.items()}
    return {group: TableCell(cell.value, cell.interval) for group, cell in cells.items()}


def _win_rate(summary: Summary, group: str, column: Column) -> Interval | None:
    """How often a model's images are better than the base's; none for the base."""
    compared = summary.compared().get(group)
    if compared is None:
        return None
    return compared[column.metric or next(iter(compared))].win_rate


def _figure(summary: Summary, group: str, name: str, column: Column) -> Interval | None:
    """A model's score, or its number as a set of images; of a method with several runs theirs together."""
    metric = column.metric or next(iter(summary.metrics))
    scored = summary.methods.get(group) or summary.models.get(name)
    if scored is not None and metric in scored.metrics:
        return scored.metrics[metric].overall
    if summary.sets is None:
        return None
    combined = summary.sets.methods.get(group)
    numbers = combined.metrics if combined is not None else summary.sets.models.get(name, {})
    if metric not in numbers:
        return None
    number = numbers[metric]
    return number.interval or Interval(number.value, number.value, number.value)
