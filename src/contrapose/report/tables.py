"""An evaluation's numbers as plain tables, for a paper, a README or a spreadsheet."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from contrapose.evaluate.statistics import Interval
from contrapose.evaluate.summary import BOUNDS
from contrapose.report.evidence import OVERALL, Gain, Judged, ModelRow, spoken
from contrapose.report.numbers import PERCENT, Cell
from contrapose.report.sets import SetSection, set_section

NOTHING = "–"
_GAIN = ("metric", "difference", "p (Holm)", "win rate (%)")


class TableCell(NamedTuple):
    """What stands in one place of a table."""

    text: str
    interval: str = ""
    is_best: bool = False


class Sheet(NamedTuple):
    """One table, all of it text that no form has escaped yet."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[TableCell, ...], ...]
    note: str
    num_names: int = 1
    """The first columns, which name the rows."""


def sheets(judged: Judged) -> Iterator[Sheet]:
    """Models by metrics, then each against the base, then the categories of each metric, then numbers of sets."""
    yield _scores(judged)
    if judged.contestants:
        yield _against_base(judged)
    against_each_other = of_pairs(judged)
    if against_each_other is not None:
        yield against_each_other
    for metric in judged.metrics:
        if len(judged.table(metric).tags) > 1:
            yield _by_tag(judged, metric)
    of_sets = set_section(judged.summary.sets, judged.summary.level)
    if of_sets is not None:
        yield from _sets(judged.title, of_sets)


def best_of(judged: Judged, metric: str) -> str | None:
    """What is clearly better than the base, and than all else that was compared with it; None where nothing is.

    Clearly better than another is where the intervals of their differences from the base do not overlap. Both
    differences share the base's noise, so that this errs to None.
    """
    summary = judged.summary
    higher_is_better = summary.metrics[metric].higher_is_better
    clearly_better: set[str] = set()
    gains: dict[str, Interval] = {}  # whose larger values are the better ones
    for name, by_metric in summary.compared().items():
        difference = by_metric[metric].difference
        gains[name] = difference
        if not higher_is_better:
            gains[name] = Interval(-difference.value, -difference.high, -difference.low)
        if summary.clearly(by_metric[metric], metric) > 0:
            clearly_better.add(name)
    if not clearly_better:
        return None
    best = max(gains, key=lambda name: gains[name].value)
    highest_rival = max((gain.high for name, gain in gains.items() if name != best), default=-math.inf)
    return best if best in clearly_better and gains[best].low > highest_rival else None


def rows_of(judged: Judged, metric: str) -> list[ModelRow]:
    """The base and single models, each method above its runs, and at the end the ceiling and the floor."""
    table = judged.table(metric)
    runs = {run for method in judged.summary.methods.values() for run in method.runs}
    by_name = {row.model: row for row in table.models}
    ordered = [row for row in table.models if row.model not in runs]
    for row in table.methods:
        ordered.append(row)
        ordered += [by_name[run] for run in judged.summary.methods[row.model].runs]
    return [*ordered, *table.bounds]


def _names(judged: Judged) -> dict[str, str]:
    """Every row's name, and how it is written."""
    names: dict[str, str] = {}
    for metric in judged.metrics:
        for row in rows_of(judged, metric):
            names[row.model] = f"{row.model} ({row.role})" if row.role else row.model
    # a metric that bounds lack, such as drift, may have brought others after them
    return dict(sorted(names.items(), key=lambda item: item[0] in BOUNDS))


def _scores(judged: Judged) -> Sheet:
    cells: dict[str, dict[str, TableCell]] = {}
    for metric in judged.metrics:
        best = best_of(judged, metric)
        cells[metric] = {row.model: _cell(row.overall, row.model == best) for row in rows_of(judged, metric)}
    rows: list[tuple[TableCell, ...]] = []
    for name, written in _names(judged).items():
        rows.append((TableCell(written), *(cells[metric].get(name, TableCell(NOTHING)) for metric in judged.metrics)))
    head = ("model", *(heading(judged, metric) for metric in judged.metrics))
    note = f"In brackets {_level(judged)} intervals; each number is the mean of the categories' means."
    tested = [metric for metric, how in judged.summary.metrics.items() if how.higher_is_better is not None]
    if judged.contestants and tested:
        note += (
            f" Bold: better than {judged.base} by interval and Holm's p, and than all others, whose intervals of the "
            f"difference from {judged.base} do not overlap with its own."
        )
    return Sheet(judged.title, head, tuple(rows), note)


def _against_base(judged: Judged) -> Sheet:
    rows: list[tuple[TableCell, ...]] = []
    for metric in judged.metrics:
        for row in rows_of(judged, metric):
            if row.gain is not None:
                rows.append(_gain_row(judged, row.model, metric, row.gain))
    note = (
        f"Differences from {judged.base} on the same prompts and seeds, with {_level(judged)} intervals; p is adjusted "
        "over a model's metrics; in a win rate a tie is half a win."
    )
    return Sheet(f"{judged.title}: against {judged.base}", ("model", *_GAIN), tuple(rows), note, num_names=2)


def of_pairs(judged: Judged) -> Sheet | None:
    """Every two methods of several training seeds against each other; None where there are no two."""
    if not judged.summary.pairs:
        return None
    rows: list[tuple[TableCell, ...]] = []
    for metric in judged.metrics:
        for pair in judged.summary.pairs:
            gain = judged.gain(pair.comparisons[metric], metric)
            rows.append(_gain_row(judged, str(pair), metric, gain))
    note = (
        f"The first method minus the second on the same prompts, with {_level(judged)} intervals for other prompts and "
        "other training seeds of both; p is adjusted over all of this table; in a win rate a tie is half a win."
    )
    return Sheet(f"{judged.title}: methods against each other", ("methods", *_GAIN), tuple(rows), note, num_names=2)


def _gain_row(judged: Judged, name: str, metric: str, gain: Gain) -> tuple[TableCell, ...]:
    named = (TableCell(name), TableCell(heading(judged, metric)))
    return (*named, _cell(gain.difference), TableCell(gain.p), _cell(gain.win_rate))


def _by_tag(judged: Judged, metric: str) -> Sheet:
    table = judged.table(metric)
    rows: list[tuple[TableCell, ...]] = []
    for row in rows_of(judged, metric):
        rows.append((TableCell(row.model), *map(_cell, (row.overall, *row.tags))))
    head = ("model", OVERALL, *(f"{spoken(tag)} ({prompts} prompts)" for tag, prompts in table.tags))
    note = f"In brackets {_level(judged)} intervals; overall is the mean of the categories' means."
    return Sheet(f"{judged.title}: {heading(judged, metric)} by category", head, tuple(rows), note)


def _sets(title: str, section: SetSection) -> Iterator[Sheet]:
    head = ("model", "value", "difference") if section.compared else ("model", "value")
    for table in section.tables:
        rows: list[tuple[TableCell, ...]] = []
        for row in table.rows:
            named = TableCell(f"{row.model} ({row.role})" if row.role else row.model)
            rows.append((named, _cell(row.value), _cell(row.difference))[: len(head)])
        sheet_title = f"{title}: {spoken(table.metric)} ({table.direction})"
        yield Sheet(sheet_title, head, tuple(rows), f"{section.about} {section.intervals}")


def heading(judged: Judged, metric: str) -> str:
    """A metric's name with its unit and which way is better."""
    table = judged.table(metric)
    unit = f" ({table.unit})" if table.unit else ""
    arrow = {True: " ↑", False: " ↓", None: ""}[table.higher_is_better]
    return f"{spoken(table.metric)}{unit}{arrow}"


def _cell(cell: Cell | None, is_best: bool = False) -> TableCell:
    if cell is None:
        return TableCell(NOTHING)
    return TableCell(cell.value, cell.interval, is_best)


def _level(judged: Judged) -> str:
    return f"{PERCENT.text(judged.summary.level).removesuffix('.0')} %"
