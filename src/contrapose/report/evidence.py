"""An evidence folder (`summary.json` and `rows.parquet`, written by `contrapose.evaluate`) as the report's tables."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from contrapose.errors import UserError
from contrapose.evaluate.rows import Row, read_rows
from contrapose.evaluate.summary import CEILING, FLOOR
from contrapose.report.numbers import PERCENT, Cell, Interval, Scale, p_value, scale_of
from contrapose.report.plots import Estimate

ROWS, SUMMARY = "rows.parquet", "summary.json"
OVERALL = "overall"
_TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")  # GenEval's own order


@dataclass(frozen=True)
class Evidence:
    """One evaluation: models that were judged on the same prompts and seeds."""

    title: str
    folder: Path
    """Folder with `rows.parquet` and `summary.json`."""
    images: Mapping[str, Path] = field(default_factory=dict)
    """Each model's folder of images, from which examples are shown; the others are shown in numbers alone."""


class Gain(NamedTuple):
    """A model against the base; the verdict is 1 for better, -1 for worse, and 0 unless interval and p agree on one."""

    difference: Cell
    p: str
    win_rate: Cell
    verdict: int


class ModelRow(NamedTuple):
    """One model's line of a table; a cell is None where the model was not judged on that tag."""

    model: str
    role: str
    overall: Cell
    tags: tuple[Cell | None, ...]
    gain: Gain | None


class MetricTable(NamedTuple):
    """One metric: the models' rows, and apart from them the bounds' (floor and ceiling)."""

    metric: str
    unit: str
    higher_is_better: bool
    tags: tuple[tuple[str, int], ...]
    """Each tag and its number of prompts."""
    models: tuple[ModelRow, ...]
    bounds: tuple[ModelRow, ...]


class Judged:
    """What an evidence folder says. Raises `UserError` naming the folder or file, and the mend, for what is none."""

    def __init__(self, evidence: Evidence):
        self.title, self.folder, self.images = evidence.title, evidence.folder, evidence.images
        if not self.folder.is_dir():
            raise UserError(f"{self.folder}: no such folder of evidence; name one made by 'contrapose evaluate'")
        self.summary = _summary(self.folder / SUMMARY)
        self.rows: list[Row] = read_rows(self.folder / ROWS)
        strange = [model for model in self.images if model not in self.summary["models"]]
        if strange:
            known = ", ".join(self.summary["models"])
            raise UserError(
                f"{self.folder}: no model {strange[0]!r} was judged, though its images are given; known: {known}"
            )

    @property
    def base(self) -> str | None:
        return self.summary["base"]

    @property
    def metrics(self) -> list[str]:
        """The first is the one that the page is about."""
        return list(self.summary["metrics"])

    @property
    def contestants(self) -> list[str]:
        """Models that were compared with the base."""
        return list(self.summary["comparisons"])

    def scale(self, metric: str) -> Scale:
        intervals = [m["metrics"][metric]["overall"] for m in self.summary["models"].values() if metric in m["metrics"]]
        intervals += [compared[metric]["difference"] for compared in self.summary["comparisons"].values()]
        return scale_of([row.value for row in self.rows if row.metric == metric], intervals)

    def tags(self) -> list[str]:
        found = dict.fromkeys(tag for model in self.summary["models"].values() for tag in model["tags"])
        return [tag for tag in _TAGS if tag in found] + [tag for tag in found if tag not in _TAGS]

    def table(self, metric: str) -> MetricTable:
        models = {name: one for name, one in self.summary["models"].items() if metric in one["metrics"]}
        rows = {name: self._row(name, metric) for name in models}
        counts = tuple((tag, max(one["tags"].get(tag, 0) for one in models.values())) for tag in self.tags())
        return MetricTable(
            metric,
            self.scale(metric).unit,
            self.summary["metrics"][metric]["higher_is_better"],
            counts,
            tuple(row for name, row in rows.items() if name not in (FLOOR, CEILING)),
            tuple(rows[name] for name in (CEILING, FLOOR) if name in rows),
        )

    def _row(self, model: str, metric: str) -> ModelRow:
        scale, scores = self.scale(metric), self.summary["models"][model]["metrics"][metric]
        roles = {
            self.base: "the base" if self.base != "base" else "",
            FLOOR: "same images, shuffled prompts",
            CEILING: "what could be reached",
        }
        cells = tuple(scale.cell(scores["tags"][tag]) if tag in scores["tags"] else None for tag in self.tags())
        return ModelRow(
            model, roles.get(model, ""), scale.cell(scores["overall"]), cells, self._gain(model, metric, scale)
        )

    def _gain(self, model: str, metric: str, scale: Scale) -> Gain | None:
        compared = self.summary["comparisons"].get(model, {}).get(metric)
        if compared is None:
            return None
        sure = compared["p_holm"] < 1 - self.summary["level"]
        better = _direction(compared["difference"]) if sure else 0
        if not self.summary["metrics"][metric]["higher_is_better"]:
            better = -better
        difference, win_rate = scale.cell(compared["difference"], signed=True), PERCENT.cell(compared["win_rate"])
        return Gain(difference, p_value(compared["p_holm"]), win_rate, better)

    def differences(self, metric: str) -> list[tuple[str, list[Estimate]]]:
        """For the forest plot: the overall difference and each tag's, in the unit that is shown."""
        compared, factor = self.summary["comparisons"], self.scale(metric).factor
        found = [(OVERALL, [_estimate(m, compared[m][metric]["difference"], factor) for m in compared])]
        for tag in self.tags():
            there = [m for m in compared if tag in compared[m][metric]["tags"]]
            found.append((spoken(tag), [_estimate(m, compared[m][metric]["tags"][tag], factor) for m in there]))
        return found


def spoken(tag: str) -> str:
    return tag.replace("_", " ")


def headlines(judged: Judged) -> list[str]:
    """One sentence for each model that was compared."""
    table = judged.table(judged.metrics[0])
    by_name = {row.model: row for row in table.models}
    sentences = []
    for row in table.models:
        if row.gain is None or judged.base is None:
            continue
        words = {1: "better than", 0: "not clearly different from", -1: "worse than"}[row.gain.verdict]
        sentences.append(
            f"{row.model} is {words} {judged.base}: {row.overall.value}{table.unit} against "
            f"{by_name[judged.base].overall.value}{table.unit}, a difference of {row.gain.difference.value} "
            f"{row.gain.difference.interval}, Holm's p {_equals(row.gain.p)}, win rate {row.gain.win_rate.value}%."
        )
    return sentences


def _equals(p: str) -> str:
    return p if p.startswith("<") else f"= {p}"


def _direction(interval: Interval) -> int:
    """Where an interval lies that does not hold 0."""
    return (interval["low"] > 0) - (interval["high"] < 0)


def _estimate(model: str, interval: Interval, factor: float) -> Estimate:
    return Estimate(model, *(interval[key] * factor for key in ("value", "low", "high")))


def _summary(path: Path) -> dict[str, Any]:
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        keys: Sequence[str] = ("base", "level", "replicates", "seed", "metrics", "models", "comparisons")
        missing = [key for key in keys if key not in summary]
    except FileNotFoundError:
        raise UserError(f"{path}: missing, so this is no evidence; make it with 'contrapose evaluate'") from None
    except (ValueError, TypeError):
        raise UserError(f"{path}: not readable as JSON; run 'contrapose evaluate' again") from None
    if missing:
        raise UserError(f"{path}: has no {', '.join(missing)}; run 'contrapose evaluate' again")
    return summary
