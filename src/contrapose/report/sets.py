"""Numbers of whole sets as a table of the report."""

from __future__ import annotations

from typing import NamedTuple

from contrapose.evaluate.sets.numbers import SetNumber, SetNumbers
from contrapose.report.evidence import Headline, spoken
from contrapose.report.numbers import Cell, Scale, count, supported

_THOUSANDTH = 0.01  # numbers all below are written in thousandths, as papers write KID


class SetRow(NamedTuple):
    """One model's line, or a method's."""

    model: str
    role: str
    value: Cell
    difference: Cell | None
    """None of the base."""


class SetTable(NamedTuple):
    """One metric."""

    metric: str
    direction: str
    rows: tuple[SetRow, ...]


class SetSection(NamedTuple):
    """All metrics of sets, and by what they were measured."""

    about: str
    intervals: str
    """How the intervals came about; empty where there are none."""
    compared: bool
    tables: tuple[SetTable, ...]


def set_section(numbers: SetNumbers | None, level: float) -> SetSection | None:
    """What is shown of these numbers; None where no metric of sets was asked for."""
    if numbers is None or not numbers.higher_is_better:
        return None
    against = f" against {count(numbers.num_reference)} of the reference" if numbers.num_reference else ""
    about = f"By {numbers.extractor}: {count(numbers.num_images)} images of each model{against}."
    intervals = ""
    if numbers.num_groups:
        intervals = (
            f"In brackets the {100 * level:g} % interval: what other prompts could change, with as many images and the "
            f"same reference, from leaving out one of {numbers.num_groups} groups of prompts after the other."
        )
    tables = tuple(_table(numbers, metric) for metric in numbers.higher_is_better)
    return SetSection(about, intervals, bool(numbers.differences), tables)


def set_headlines(numbers: SetNumbers | None, base: str | None) -> list[Headline]:
    """One for each model or method that was compared with the base, by the first metric of sets."""
    if numbers is None or not numbers.differences:
        return []
    metric = next(iter(numbers.higher_is_better))
    scale = set_scale(numbers, metric)
    runs = {run for method in numbers.methods.values() for run in method.runs}
    of_base = _cell(scale, numbers.models[str(base)][metric])
    lines: list[Headline] = []
    for row in measured(numbers, metric):
        if row.difference is None or row.model in runs:
            continue
        words = "not clearly different from"
        interval = row.difference.interval
        if interval is not None and not interval.low <= 0 <= interval.high:
            words = "above" if interval.low > 0 else "below"
        gain = _cell(scale, row.difference, signed=True)
        claim = f"{spoken(metric)} of {row.model} is {words} that of {base}"
        unit = f" {scale.unit}" if scale.unit else ""
        written = f"{_cell(scale, row.number).value} against {of_base.value}{unit}, a difference of {gain.value}"
        lines.append(Headline(claim, f"{written} {gain.interval}".rstrip() + f", by {numbers.extractor}."))
    return lines


class SetReading(NamedTuple):
    """One model's number, or a method's, before it is written."""

    model: str
    role: str
    number: SetNumber
    difference: SetNumber | None


def measured(numbers: SetNumbers, metric: str) -> list[SetReading]:
    """Of every model, and then of every method."""
    rows: list[SetReading] = []
    for model, by_metric in numbers.models.items():
        rows.append(SetReading(model, "", by_metric[metric], numbers.differences.get(model, {}).get(metric)))
    for method, combined in numbers.methods.items():
        role = f"{len(combined.runs)} training seeds"
        rows.append(SetReading(method, role, combined.metrics[metric], combined.differences[metric]))
    return rows


def set_scale(numbers: SetNumbers, metric: str) -> Scale:
    """As many decimals as the narrowest interval supports; small numbers in thousandths."""
    every: list[SetNumber] = []
    for row in measured(numbers, metric):
        every += [row.number] if row.difference is None else [row.number, row.difference]
    intervals = [number.interval for number in every if number.interval is not None]
    largest = max(abs(number.value) for number in every)
    factor = 1000.0 if largest < _THOUSANDTH else 1.0
    decimals = supported(interval.scaled(factor) for interval in intervals).decimals
    return Scale(factor, decimals, "thousandths" if factor > 1 else "")


def _table(numbers: SetNumbers, metric: str) -> SetTable:
    scale = set_scale(numbers, metric)
    rows: list[SetRow] = []
    for row in measured(numbers, metric):
        difference = None if row.difference is None else _cell(scale, row.difference, signed=True)
        rows.append(SetRow(row.model, row.role, _cell(scale, row.number), difference))
    direction = "higher is better" if numbers.higher_is_better[metric] else "lower is better"
    return SetTable(metric, f"{direction}, in {scale.unit}" if scale.unit else direction, tuple(rows))


def _cell(scale: Scale, number: SetNumber, signed: bool = False) -> Cell:
    if number.interval is None:
        return Cell(scale.text(number.value, signed), "")
    return scale.cell(number.interval, signed)
