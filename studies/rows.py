"""Rows of a Markdown table from an evaluation's evidence: the base, and each method over its training seeds.

    python studies/rows.py results/world/ddspo/evidence/shapes/scale-3 \\
        --columns correct:interval:3 correct:difference:3 roughness:value:2 roughness:difference:2

A column is a metric, what is shown of it, and decimals: its value, its value with the 95 % interval, or its difference
from the base with that interval. The tables of README and docs/ are made so.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

from contrapose.evaluate.evidence import SUMMARY

Shown = dict[str, Any]
"""A value, and the ends `low` and `high` of its interval."""


class Column(NamedTuple):
    """A metric, what is shown of it, and with how many decimals."""

    metric: str
    form: str
    decimals: int


def column(text: str) -> Column:
    """The column that a text such as `roughness:difference:2` names. Raises `ValueError` for other texts."""
    metric, form, decimals = text.split(":")
    if form not in ("value", "interval", "difference"):
        raise ValueError(form)
    return Column(metric, form, int(decimals))


def written(number: float, decimals: int, signed: bool) -> str:
    """A number without the zero before its point."""
    text = f"{number:+.{decimals}f}" if signed else f"{number:.{decimals}f}"
    return text.replace("0.", ".", 1) if abs(number) < 1 else text


def cell(shown: Shown | None, wanted: Column) -> str:
    """A metric's value, perhaps with its interval; empty where there is none, as of the base against itself."""
    if shown is None:
        return ""
    signed = wanted.form == "difference"
    text = written(shown["value"], wanted.decimals, signed)
    if wanted.form == "value" or "low" not in shown:
        return text
    low, high = (written(shown[end], wanted.decimals, signed) for end in ("low", "high"))
    return f"{text} [{low}, {high}]"


def rows(summary: Shown, columns: list[Column]) -> list[str]:
    """A line for each method of several training seeds, after those of the other models.

    Ends the program for a metric that was not measured.
    """
    sets = summary["sets"] or {"models": {}, "differences": {}, "methods": {}, "higher_is_better": {}}
    known = [*summary["metrics"], *sets["higher_is_better"]]
    for wanted in columns:
        if wanted.metric not in known:
            raise SystemExit(f"{wanted.metric} was not measured (known: {', '.join(known)})")
    runs = {run for method in summary["methods"].values() for run in method["runs"]}
    models = {name: model for name, model in summary["models"].items() if name not in runs}
    lines = []
    for name, model in {**models, **summary["methods"]}.items():
        # a model of one run is compared in a place of its own
        compared = model.get("comparisons") or summary["comparisons"].get(name, {})
        of_sets = {"metrics": sets["models"].get(name, {}), "differences": sets["differences"].get(name, {})}
        of_sets |= sets["methods"].get(name, {})
        values = {metric: found["overall"] for metric, found in model["metrics"].items()}
        values |= intervals(of_sets["metrics"])
        differences = {metric: found["difference"] for metric, found in compared.items()}
        differences |= intervals(of_sets["differences"])
        shown = [(differences if wanted.form == "difference" else values).get(wanted.metric) for wanted in columns]
        cells = [cell(one, wanted) for one, wanted in zip(shown, columns, strict=True)]
        lines.append(f"| {' | '.join([name, *cells])} |")
    return lines


def intervals(measures: Shown) -> dict[str, Shown]:
    """The values of whole sets' measures with their intervals."""
    return {metric: found["interval"] or found for metric, found in measures.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("evidence", type=Path, help="folder that 'contrapose evaluate' made")
    parser.add_argument(
        "--columns", type=column, nargs="+", required=True, help="METRIC:value|interval|difference:DECIMALS"
    )
    settings = parser.parse_args()
    found = json.loads((settings.evidence / SUMMARY).read_text(encoding="utf-8"))
    print("\n".join(rows(found, settings.columns)))
