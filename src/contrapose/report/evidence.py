"""An evidence folder (`evidence.yaml`, `summary.json` and `rows.parquet`) as the report's tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from contrapose import runfile
from contrapose.errors import UserError
from contrapose.evaluate.rows import Row, read_rows
from contrapose.evaluate.statistics import Interval
from contrapose.evaluate.summary import CEILING, FLOOR, MEND, Scores, Summary, read_summary
from contrapose.ranges import Count, checked
from contrapose.report.numbers import PERCENT, Cell, Scale, p_value, scale_of
from contrapose.report.plots import Estimate

EVIDENCE, ROWS, SUMMARY = "evidence.yaml", "rows.parquet", "summary.json"
OVERALL = "overall"
CONVERTER = runfile.converter()
_TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")  # GenEval's own order


@dataclass(frozen=True)
@checked
class Record:
    """What `evidence.yaml` says: what was judged, and how."""

    title: str
    suite: str
    images: dict[str, Path]
    base: str | None = None
    autoencoder: str | None = None
    """Model whose autoencoder the ceiling passed through."""
    replicates: Count | None = None


@dataclass(frozen=True)
class Evidence:
    """One evaluation: models that were judged on the same prompts and seeds."""

    title: str
    folder: Path
    """Folder with `rows.parquet` and `summary.json`."""
    images: Mapping[str, Path] = field(default_factory=dict)
    """Each model's folder of images, from which examples are shown; the others are shown in numbers alone."""


def read_evidence(folder: Path) -> Evidence:
    """A finished evaluation.

    Raises `UserError` naming the folder or file, and the mend, for what is none.
    """
    path = folder / EVIDENCE
    if not path.is_file():
        raise UserError(f"{folder}: no {EVIDENCE}, so this is no finished evidence; run 'contrapose evaluate' again")
    record = runfile.read(path, Record, CONVERTER)
    return Evidence(record.title, folder, record.images)


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
        self.summary: Summary = read_summary(self.folder / SUMMARY)
        self._scales: dict[str, Scale] = {}
        self.rows: list[Row] = read_rows(self.folder / ROWS)
        _check_rows(self.folder / ROWS, self.rows, self.summary)
        strange = [model for model in self.images if model not in self.summary.models]
        if strange:
            known = ", ".join(self.summary.models)
            raise UserError(
                f"{self.folder}: no model {strange[0]!r} was judged, though its images are given; known: {known}"
            )

    @property
    def base(self) -> str | None:
        return self.summary.base

    @property
    def metrics(self) -> list[str]:
        """The first is the one that the page is about."""
        return list(self.summary.metrics)

    @property
    def contestants(self) -> list[str]:
        """Models that were compared with the base."""
        return list(self.summary.comparisons)

    def scale(self, metric: str) -> Scale:
        """How the metric's numbers are written, worked out once of all rows."""
        if metric not in self._scales:
            self._scales[metric] = self._scale(metric)
        return self._scales[metric]

    def _scale(self, metric: str) -> Scale:
        intervals = [scores.metrics[metric].overall for scores in self._judged_by(metric).values()]
        intervals += [compared[metric].difference for compared in self.summary.comparisons.values()]
        return scale_of([row.value for row in self.rows if row.metric == metric], intervals)

    def tags(self) -> list[str]:
        found = dict.fromkeys(tag for scores in self.summary.models.values() for tag in scores.tags)
        return [tag for tag in _TAGS if tag in found] + [tag for tag in found if tag not in _TAGS]

    def table(self, metric: str) -> MetricTable:
        models = self._judged_by(metric)
        rows = {name: self._row(name, metric) for name in models}
        counts = tuple((tag, max(scores.tags.get(tag, 0) for scores in models.values())) for tag in self.tags())
        return MetricTable(
            metric,
            self.scale(metric).unit,
            self.summary.metrics[metric].higher_is_better,
            counts,
            tuple(row for name, row in rows.items() if name not in (FLOOR, CEILING)),
            tuple(rows[name] for name in (CEILING, FLOOR) if name in rows),
        )

    def _judged_by(self, metric: str) -> dict[str, Scores]:
        return {name: scores for name, scores in self.summary.models.items() if metric in scores.metrics}

    def _row(self, model: str, metric: str) -> ModelRow:
        scale, scores = self.scale(metric), self.summary.models[model].metrics[metric]
        roles = {
            self.base: "the base" if self.base != "base" else "",
            FLOOR: "same images, shuffled prompts",
            CEILING: "what could be reached",
        }
        cells = tuple(scale.cell(scores.tags[tag]) if tag in scores.tags else None for tag in self.tags())
        return ModelRow(
            model, roles.get(model, ""), scale.cell(scores.overall), cells, self._gain(model, metric, scale)
        )

    def _gain(self, model: str, metric: str, scale: Scale) -> Gain | None:
        compared = self.summary.comparisons.get(model, {}).get(metric)
        if compared is None:
            return None
        sure = compared.p_holm < 1 - self.summary.level
        better = _direction(compared.difference) if sure else 0
        if not self.summary.metrics[metric].higher_is_better:
            better = -better
        difference, win_rate = scale.cell(compared.difference, signed=True), PERCENT.cell(compared.win_rate)
        return Gain(difference, p_value(compared.p_holm), win_rate, better)

    def differences(self, metric: str) -> list[tuple[str, list[Estimate]]]:
        """For the forest plot: the overall difference and each tag's, in the unit that is shown."""
        factor = self.scale(metric).factor
        compared = {model: comparisons[metric] for model, comparisons in self.summary.comparisons.items()}
        found = [(OVERALL, [_estimate(model, one.difference, factor) for model, one in compared.items()])]
        for tag in self.tags():
            of_tag = {model: one.tags[tag] for model, one in compared.items() if tag in one.tags}
            found.append((spoken(tag), [_estimate(model, interval, factor) for model, interval in of_tag.items()]))
        return found


def _check_rows(path: Path, rows: list[Row], summary: Summary) -> None:
    """Raise `UserError` for rows that are not those that the summary sums up."""
    images = {(row.model, row.metric, row.prompt_id, row.seed) for row in rows}
    counted = Counter((model, metric) for model, metric, *_ in images)
    wanted = {
        (model, metric): scores.num_images for model, scores in summary.models.items() for metric in scores.metrics
    }
    if counted != wanted or len(rows) != len(images):
        raise UserError(f"{path}: does not hold the rows that {SUMMARY} sums up; {MEND}")


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
    return (interval.low > 0) - (interval.high < 0)


def _estimate(model: str, interval: Interval, factor: float) -> Estimate:
    return Estimate(model, interval.value * factor, interval.low * factor, interval.high * factor)
