"""An evaluation or a sweep as the report's tables."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from contrapose.errors import UserError
from contrapose.evaluate.alarm import sentence
from contrapose.evaluate.evidence import Evidence, read_judged
from contrapose.evaluate.sets.describing import DESCRIBING
from contrapose.evaluate.statistics import Interval, TagIntervals
from contrapose.evaluate.summary import BOUNDS, CEILING, FLOOR, Comparison, ModelScores
from contrapose.report.numbers import PERCENT, Cell, Scale, p_value, scale_of

OVERALL = "overall"
_TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")  # GenEval's own order


class Gain(NamedTuple):
    """A model against the base; the verdict is 1 for better, -1 for worse, and 0 unless interval and p agree on one."""

    difference: Cell
    p: str
    win_rate: Cell | None
    """None of a metric that has no better direction, and then p is not told either."""
    verdict: int
    smallest: str | None
    """The smallest difference that would be seen."""


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
    """As it is shown, behind what the suite's numbers are called."""
    unit: str
    higher_is_better: bool | None
    tags: tuple[tuple[str, int], ...]
    """Each tag and its number of prompts."""
    models: tuple[ModelRow, ...]
    methods: tuple[ModelRow, ...]
    """Runs of several training seeds as one."""
    bounds: tuple[ModelRow, ...]
    extractor: str = ""
    """What looked at the images, of a metric by features."""

    @property
    def direction(self) -> str:
        """Which values are better, in words."""
        if self.higher_is_better is None:
            return (
                f"how it draws, not how well; by {self.extractor}" if self.extractor else "how it draws, not how well"
            )
        return "higher is better" if self.higher_is_better else "lower is better"


class Judged:
    """What an evaluation says, table by table.

    Raises `UserError` naming the folder or file, and the fix, where one is missing or broken.
    """

    def __init__(self, evidence: Evidence):
        self.evidence = evidence
        self.title = evidence.title
        self.folder = evidence.folder
        self.images = evidence.images
        self.summary, self.rows = read_judged(self.folder)
        self._scales: dict[str, Scale] = {}
        self._tables: dict[str, MetricTable] = {}
        unknown = [model for model in self.images if model not in self.summary.models]
        if unknown:
            models = ", ".join(self.summary.models)
            raise UserError(
                f"{self.folder}: no model {unknown[0]!r} was judged, though its images are given; known: {models}"
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
        """What was compared with the base: models, and methods in the place of their runs."""
        return list(self.summary.compared())

    def scale(self, metric: str) -> Scale:
        """How the metric's numbers are written, worked out once of all rows."""
        if metric not in self._scales:
            intervals = [scores.metrics[metric].overall for scores in self._judged_by(metric).values()]
            intervals += [compared[metric].difference for compared in self.summary.comparisons.values()]
            for method in self.summary.methods.values():
                intervals += [method.metrics[metric].overall]
                intervals += [compared.difference for compared in method.comparisons.values()]
            self._scales[metric] = scale_of(self.rows.values_of(metric).tolist(), intervals)
        return self._scales[metric]

    def tags(self) -> list[str]:
        """The categories of prompts, GenEval's first and in its order."""
        return ordered_tags(tag for scores in self.summary.models.values() for tag in scores.tags)

    def table(self, metric: str) -> MetricTable:
        """Every model's scores by one metric, and beside them what sets it apart from the base; worked out once."""
        if metric not in self._tables:
            self._tables[metric] = self._table_of(metric)
        return self._tables[metric]

    def _table_of(self, metric: str) -> MetricTable:
        models = self._judged_by(metric)
        # bounds stand apart, since nobody trained them: they say how high and how low this metric goes here
        roles = {FLOOR: "same images, shuffled prompts", CEILING: "what could be reached"}
        if self.base is not None and self.base != "base":
            roles[self.base] = "the base"
        rows: dict[str, ModelRow] = {}
        for name, scores in models.items():
            compared = self.summary.comparisons.get(name, {}).get(metric)
            rows[name] = self._row(name, roles.get(name, ""), metric, scores.metrics[metric], compared)
        methods = []
        for name, method in self.summary.methods.items():
            role = f"{len(method.runs)} training seeds"
            methods.append(self._row(name, role, metric, method.metrics[metric], method.comparisons.get(metric)))
        contestants = [row for name, row in rows.items() if name not in BOUNDS]
        bounds = [rows[name] for name in (CEILING, FLOOR) if name in rows]
        counts: list[tuple[str, int]] = []
        for tag in self.tags():
            counts.append((tag, max(scores.tags.get(tag, 0) for scores in models.values())))
        called = self.evidence.called
        extractor = ""
        if self.summary.sets is not None and metric in DESCRIBING:
            extractor = self.summary.sets.extractor
        return MetricTable(
            f"{called}: {metric}" if called and metric not in DESCRIBING else metric,
            self.scale(metric).unit,
            self.summary.metrics[metric].higher_is_better,
            tuple(counts),
            tuple(contestants),
            tuple(methods),
            tuple(bounds),
            extractor,
        )

    def _judged_by(self, metric: str) -> dict[str, ModelScores]:
        return {name: scores for name, scores in self.summary.models.items() if metric in scores.metrics}

    def _row(self, name: str, role: str, metric: str, scores: TagIntervals, compared: Comparison | None) -> ModelRow:
        scale = self.scale(metric)
        by_tag = {tag: scale.cell(interval) for tag, interval in scores.tags.items()}
        cells = tuple(by_tag.get(tag) for tag in self.tags())
        gain = None if compared is None else self.gain(compared, metric)
        return ModelRow(name, role, scale.cell(scores.overall), cells, gain)

    def gain(self, compared: Comparison, metric: str) -> Gain:
        """A comparison as it is written."""
        scale = self.scale(metric)
        difference = scale.cell(compared.difference, signed=True)
        if self.summary.metrics[metric].higher_is_better is None:
            return Gain(difference, "–", None, 0, None)
        smallest = None
        if compared.smallest_difference:  # where nothing differs at all, 0 would say nothing
            smallest = scale.text(compared.smallest_difference)
        return Gain(
            difference,
            p_value(compared.p_holm),
            PERCENT.cell(compared.win_rate),
            self.summary.clearly(compared, metric),
            smallest,
        )

    def differences(self, metric: str) -> list[tuple[str, dict[str, Interval]]]:
        """For the forest plot: by model the overall difference, and each tag's, in the unit that is shown."""
        factor = self.scale(metric).factor
        compared = {name: by_metric[metric] for name, by_metric in self.summary.compared().items()}
        overall = {model: comparison.difference.scaled(factor) for model, comparison in compared.items()}
        differences = [(OVERALL, overall)]
        for tag in self.tags():
            of_tag: dict[str, Interval] = {}
            for model, comparison in compared.items():
                if tag in comparison.tags:
                    of_tag[model] = comparison.tags[tag].scaled(factor)
            differences.append((spoken(tag), of_tag))
        return differences

    def alarms(self) -> list[str]:
        """Gains that held-out judges do not share, in words."""

        def written(metric: str, difference: Interval) -> str:
            cell = self.scale(metric).cell(difference, signed=True)
            return f"{cell.value}{self.scale(metric).unit} {cell.interval}"

        return [sentence(alarm, self.summary, written, spoken) for alarm in self.summary.alarms]


def ordered_tags(tags: Iterable[str]) -> list[str]:
    """Each tag once: GenEval's first and in its order, then the others as they come."""
    different = dict.fromkeys(tags)
    of_geneval = [tag for tag in _TAGS if tag in different]
    return of_geneval + [tag for tag in different if tag not in _TAGS]


def spoken(tag: str) -> str:
    return tag.replace("_", " ")


class Headline(NamedTuple):
    """What came out for one model: the claim, and the numbers that it rests on, as one sentence."""

    claim: str
    numbers: str

    def __str__(self) -> str:
        return f"{self.claim}: {self.numbers}"


def headlines(judged: Judged) -> list[Headline]:
    """One for each model or method that was compared."""
    table = judged.table(judged.metrics[0])
    scores = {row.model: row.overall for row in table.models}
    gains = {row.model: row.gain for row in table.models}
    lines = []
    for row in (*table.models, *table.methods):
        if row.gain is None or row.gain.win_rate is None or row.model not in judged.contestants:
            continue
        words = {1: "better than", 0: "not clearly different from", -1: "worse than"}[row.gain.verdict]
        p = row.gain.p if row.gain.p.startswith("<") else f"= {row.gain.p}"
        method = judged.summary.methods.get(row.model)
        runs = ""
        if method is not None:
            alone = [gain.difference.value for run in method.runs if (gain := gains[run]) is not None]
            runs = f", mean of {len(method.runs)} training seeds ({', '.join(alone)})"
        claim = f"{row.model} is {words} {judged.base}"
        numbers = (
            f"{spoken(table.metric)} {row.overall.value}{table.unit} against "
            f"{scores[str(judged.base)].value}{table.unit}, a difference of {row.gain.difference.value} "
            f"{row.gain.difference.interval}{runs}, Holm's p {p}, win rate {row.gain.win_rate.value}%."
        )
        if row.gain.smallest is not None:
            chosen = "prompts" if method is None else "prompts and seeds"
            numbers += f" With these {chosen} a difference under {row.gain.smallest} cannot be seen."
        lines.append(Headline(claim, numbers + _besides(judged, row.model)))
    return lines


def _besides(judged: Judged, model: str) -> str:
    """What else clearly sets a model apart, as " Besides, better: ...; worse: ..."; empty where nothing does."""
    by_verdict: dict[str, list[str]] = {"better": [], "worse": []}
    for metric in judged.metrics[1:]:
        table = judged.table(metric)
        rows = {row.model: row for row in (*table.models, *table.methods)}
        row = rows.get(model)
        if row is None or row.gain is None or row.gain.verdict == 0:
            continue
        base = rows[str(judged.base)].overall.value
        numbers = f"{spoken(metric)} {row.overall.value}{table.unit} against {base}{table.unit}"
        by_verdict["better" if row.gain.verdict > 0 else "worse"].append(numbers)
    claims = [f"{verdict}: {', '.join(numbers)}" for verdict, numbers in by_verdict.items() if numbers]
    return f" Besides, {'; '.join(claims)}." if claims else ""
