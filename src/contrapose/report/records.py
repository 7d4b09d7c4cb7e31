"""An evaluation's numbers line by line, as a spreadsheet wants them: each number in a column of its own."""

from __future__ import annotations

from collections.abc import Iterator

from contrapose.evaluate.sets.numbers import SetNumber, SetNumbers
from contrapose.evaluate.statistics import Interval, TagIntervals
from contrapose.evaluate.summary import Comparison
from contrapose.report.evidence import OVERALL, Judged
from contrapose.report.numbers import MINUS, PERCENT, Scale
from contrapose.report.sets import measured, set_scale
from contrapose.report.tables import best_of, rows_of

VALUE = ("value", "low", "high")
DIFFERENCE = ("difference", "difference_low", "difference_high")
WIN_RATE = ("win_rate", "win_rate_low", "win_rate_high")
COLUMNS = (
    "evaluation", "metric", "unit", "better", "model", "category",
    *VALUE, *DIFFERENCE, "p_holm", *WIN_RATE, "smallest_difference", "best",
)  # fmt: skip


def records(judged: Judged) -> Iterator[dict[str, str]]:
    """A line for each metric, model or pair of methods, and category, the first of which is all of them.

    Values and differences are in the line's unit and win rates in percent, with the decimals of the other tables; what
    there is not is empty. `p_holm`, the win rate and `best` are of all categories together. Numbers of sets come last.
    """
    for metric in judged.metrics:
        best = best_of(judged, metric)
        direction = {True: "higher", False: "lower", None: ""}[judged.summary.metrics[metric].higher_is_better]
        called = judged.table(metric).metric
        same = {"evaluation": judged.title, "metric": called, "unit": judged.scale(metric).unit, "better": direction}
        for row in rows_of(judged, metric):
            scores, compared = _numbers(judged, row.model, metric)
            for category, interval in {OVERALL: scores.overall, **scores.tags}.items():
                line = dict.fromkeys(COLUMNS, "") | same | {"model": row.model, "category": category}
                line |= _columns(VALUE, interval, judged.scale(metric))
                if compared is not None:
                    line |= _compared(compared, category, judged.scale(metric), tested=bool(direction))
                if category == OVERALL and row.model == best:
                    line["best"] = "yes"
                yield line
        for pair in judged.summary.pairs:
            compared = pair.comparisons[metric]
            for category in (OVERALL, *compared.tags):
                line = dict.fromkeys(COLUMNS, "") | same | {"model": str(pair), "category": category}
                yield line | _compared(compared, category, judged.scale(metric), tested=bool(direction))
    if judged.summary.sets is not None:
        yield from _of_sets(judged.title, judged.summary.sets)


def _of_sets(title: str, numbers: SetNumbers) -> Iterator[dict[str, str]]:
    """A line for each number of a set and model."""
    for metric, is_better in numbers.higher_is_better.items():
        scale = set_scale(numbers, metric)
        direction = "higher" if is_better else "lower"
        for row in measured(numbers, metric):
            line = dict.fromkeys(COLUMNS, "") | {"evaluation": title, "metric": metric, "unit": scale.unit}
            line |= {"better": direction, "model": row.model, "category": OVERALL}
            line |= _of_set(VALUE, row.number, scale)
            if row.difference is not None:
                line |= _of_set(DIFFERENCE, row.difference, scale)
            yield line


def _of_set(names: tuple[str, str, str], number: SetNumber, scale: Scale) -> dict[str, str]:
    columns = {} if number.interval is None else _columns(names, number.interval, scale)
    return columns | {names[0]: _plain(number.value, scale)}


def _numbers(judged: Judged, name: str, metric: str) -> tuple[TagIntervals, Comparison | None]:
    """A model's or a method's scores, and what sets it apart from the base."""
    method = judged.summary.methods.get(name)
    if method is not None:
        return method.metrics[metric], method.comparisons.get(metric)
    scores = judged.summary.models[name].metrics[metric]
    return scores, judged.summary.comparisons.get(name, {}).get(metric)


def _compared(compared: Comparison, category: str, scale: Scale, tested: bool) -> dict[str, str]:
    if category != OVERALL:
        of_category = compared.tags.get(category)
        return {} if of_category is None else _columns(DIFFERENCE, of_category, scale)
    line = _columns(DIFFERENCE, compared.difference, scale)
    if tested:
        line["p_holm"] = f"{compared.p_holm:.3g}"
        line |= _columns(WIN_RATE, compared.win_rate, PERCENT)
        if compared.smallest_difference is not None:
            line["smallest_difference"] = _plain(compared.smallest_difference, scale)
    return line


def _columns(names: tuple[str, str, str], interval: Interval, scale: Scale) -> dict[str, str]:
    numbers = (interval.value, interval.low, interval.high)
    return {name: _plain(number, scale) for name, number in zip(names, numbers, strict=True)}


def _plain(number: float, scale: Scale) -> str:
    """With a minus that programs read."""
    return scale.text(number).replace(MINUS, "-")
