"""The page of a sweep over strengths of guidance: scores and images by strength, of one sweep or of several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes

from contrapose.errors import UserError
from contrapose.evaluate.evidence import SUMMARY, Evidence
from contrapose.evaluate.images import prompt_folders
from contrapose.evaluate.statistics import Interval
from contrapose.evaluate.summary import write_summary
from contrapose.evaluate.sweep import FIX, folder_of, judged_by, name_of, read_record
from contrapose.files import check_folder, one_writer, write_text
from contrapose.report.drawing import DASHES, MARKERS, QUIET, SERIES, drawing
from contrapose.report.evidence import Judged, headlines, spoken
from contrapose.report.examples import Example, examples, unjudged_examples
from contrapose.report.html import fill
from contrapose.report.numbers import Cell, Scale
from contrapose.report.plots import Plot
from contrapose.report.provenance import sampling, settings_of, versions
from contrapose.workers import ALONE, Worker

PAGE = "page.html"
NUM_EXAMPLES = 6
EXAMPLE_SEED = 0
Points = dict[float, Interval]
"""Score by strength."""


class Sweep(NamedTuple):
    """A finished sweep; `judged` is None where no suite judged its images."""

    folder: Path
    label: str
    images: dict[float, Path]
    judged: Judged | None


class SweepLine(NamedTuple):
    """The sweeps of one label: each training seed's own scores, and what is drawn for all of them."""

    label: str
    runs: list[Points]

    @property
    def points(self) -> Points:
        """One run's scores with their intervals; of several, the mean, the lowest and the highest."""
        if len(self.runs) == 1:
            return self.runs[0]
        points: Points = {}
        for scale in self.runs[0]:
            if all(scale in run for run in self.runs):
                values = [run[scale].value for run in self.runs]
                points[scale] = Interval(sum(values) / len(values), min(values), max(values))
        return points


def read_sweep(folder: Path) -> Sweep:
    """A finished sweep; raises `UserError` naming the folder, and the fix, for one that holds none."""
    record = read_record(folder)
    images = {scale: folder_of(folder, scale) for scale in record.scales}
    if not record.judged:
        return Sweep(folder, record.label, images, None)
    named = {name_of(scale): path for scale, path in images.items()}
    judged_by = (record.suite, (), record.features, record.counted, record.called)
    judged = Judged(Evidence(record.label, folder, named, *judged_by))
    for scores in judged.summary.models.values():
        if set(scores.metrics) != set(judged.metrics):
            raise UserError(f"{folder / SUMMARY}: a strength lacks a metric; {FIX}")
    return Sweep(folder, record.label, images, judged)


def read_sweeps(folders: Sequence[Path]) -> list[Sweep]:
    """Finished sweeps to be compared; `UserError` for fewer than two, and for one that is named twice."""
    sweeps = [read_sweep(folder) for folder in folders]
    different = {sweep.folder.resolve() for sweep in sweeps}
    if len(different) < 2 or len(different) < len(sweeps):
        raise UserError("--compare: name two finished sweeps or more, each once")
    return sweeps


def write_sweep_page(sweeps: Sequence[Sweep], out: Path, worker: Worker = ALONE) -> Path:
    """Write `page.html` on one sweep, or on several with their lines' scores in `summary.json` beside it.

    Raises `UserError` when they cannot be compared.
    """
    check_folder(out)
    _check(sweeps, out)
    page = render(sweeps)
    # a comparison has no parts, which a worker would name as the way to share it
    held = worker.writing(out) if len(sweeps) == 1 else one_writer(out)
    with held, worker.in_turn(out / PAGE):
        if len(sweeps) > 1:
            lines: dict[str, list[dict[str, Any]]] = {}
            for metric in _metrics(sweeps):
                lines[metric] = [_as_data(line) for line in _lines(sweeps, metric)]
            write_summary(None, out / SUMMARY, {"sweeps": [str(sweep.folder) for sweep in sweeps], "lines": lines})
        write_text(out / PAGE, page)
    return out / PAGE


def _as_data(line: SweepLine) -> dict[str, Any]:
    """A line as JSON holds it."""
    runs = []
    for run in line.runs:
        runs.append({scale: asdict(interval) for scale, interval in run.items()})
    return {"label": line.label, "runs": runs}


def _check(sweeps: Sequence[Sweep], out: Path) -> None:
    """Raise `UserError` for sweeps that cannot be compared, and for an `out` that is one of them."""
    first = sweeps[0]
    for other in sweeps[1:]:
        if _prompts(other) != _prompts(first):
            raise UserError(f"{other.folder}: was made for other prompts than {first.folder}; sweep over the same ones")
        if _metrics([other]) != _metrics([first]):
            raise UserError(f"{other.folder}: was not judged as {first.folder} was; give both the same --suite")
        if judged_by(other.folder) != judged_by(first.folder):
            raise UserError(
                f"{other.folder}: was judged by another version, or other settings, of the judge than {first.folder}; "
                "sweep both with the same"
            )
        if out.resolve() in (other.folder.resolve(), first.folder.resolve()):
            raise UserError(f"{out}: holds a sweep itself; name another folder for the comparison")
    for label in {sweep.label for sweep in sweeps}:
        strengths = [set(sweep.images) for sweep in sweeps if sweep.label == label]
        if not set.intersection(*strengths):
            raise UserError(
                f"the sweeps labelled {label} share no strength, so that they have no mean; label them apart"
            )


def _prompts(sweep: Sweep) -> list[str]:
    return [folder.prompt.text for folder in prompt_folders(next(iter(sweep.images.values())))]


def _metrics(sweeps: Sequence[Sweep]) -> list[str]:
    return sweeps[0].judged.metrics if sweeps[0].judged else []


def _lines(sweeps: Sequence[Sweep], metric: str) -> list[SweepLine]:
    """One line for each label, in the order of their first sweeps."""
    runs_of: dict[str, list[Points]] = {}
    for sweep in sweeps:
        assert sweep.judged is not None
        models = sweep.judged.summary.models
        points = {scale: models[name_of(scale)].metrics[metric].overall for scale in sweep.images}
        runs_of.setdefault(sweep.label, []).append(points)
    return [SweepLine(label, runs) for label, runs in runs_of.items()]


def render(sweeps: Sequence[Sweep]) -> str:
    """The page as text; all of it that people wrote is escaped by the template, or by matplotlib."""
    judged = [sweep.judged for sweep in sweeps if sweep.judged]
    first_of: dict[str, Sweep] = {}
    for sweep in sweeps:
        first_of.setdefault(sweep.label, sweep)
    folders = {_title(sweep, sweeps): sweep.folder for sweep in sweeps}
    plots = [_plot(sweeps, metric) for metric in _metrics(sweeps)]
    tables = [(_title(sweep, sweeps), sweep.judged) for sweep in sweeps if sweep.judged]
    grids = [(label, _grid(sweep)) for label, sweep in first_of.items()]
    summary = _best(sweeps)
    if len(judged) == 1:
        summary += map(str, headlines(judged[0]))
    title = "Sweeps compared"
    if len(first_of) < 4:
        title = " and ".join(first_of)
    return fill(
        "sweep.html.j2",
        title=title,
        summary=summary,
        plots=plots,
        table=_table(sweeps) if len(sweeps) > 1 and judged else None,
        tables=tables,
        grids=grids,
        made=sampling(folders),
        versions=versions(),
    )


def _title(sweep: Sweep, sweeps: Sequence[Sweep]) -> str:
    """The label, and the folder where several sweeps have it."""
    several = [other.label for other in sweeps].count(sweep.label) > 1
    return f"{sweep.label} ({sweep.folder})" if several else sweep.label


def _scale(sweeps: Sequence[Sweep], metric: str) -> Scale:
    """As many decimals as all of them can do with."""
    scales = [sweep.judged.scale(metric) for sweep in sweeps if sweep.judged]
    return max(scales, key=lambda scale: scale.decimals)


def _is_run_itself(sweep: Sweep) -> bool:
    """Whether w = 1 is the aligned run without guidance."""
    guidance = settings_of(sweep.folder).get("guidance") or {}
    plain = {"name": "pgd", "schedule": "constant", "interval": [0.0, 1.0], "rescale": 0.0}
    return {key: guidance.get(key) for key in plain} == plain


def _best(sweeps: Sequence[Sweep]) -> list[str]:
    """Where each line is best by the first metric, in a sentence; none where that has no better direction."""
    sentences = []
    for metric in _metrics(sweeps)[:1]:
        higher_is_better = _higher(sweeps, metric)
        if higher_is_better is None:
            continue
        scale = _scale(sweeps, metric)
        sign = 1 if higher_is_better else -1
        for line in _lines(sweeps, metric):
            scores = {w: f"{scale.text(point.value)}{scale.unit} at w = {w:g}" for w, point in line.points.items()}
            signed = {w: sign * point.value for w, point in line.points.items()}
            best = max(signed, key=signed.__getitem__)
            compared = [scores[w] for w in (0.0, 1.0) if w in scores and w != best]
            runs = f" (mean of {len(line.runs)} runs)" if len(line.runs) > 1 else ""
            against = f", against {' and '.join(compared)}" if compared else ""
            sentences.append(f"{line.label}{runs}: {spoken(metric)} is best with {scores[best]}{against}.")
    return sentences


def _higher(sweeps: Sequence[Sweep], metric: str) -> bool | None:
    assert sweeps[0].judged is not None
    return sweeps[0].judged.summary.metrics[metric].higher_is_better


def _table(sweeps: Sequence[Sweep]) -> dict[str, Any]:
    """The first metric of every line by strength."""
    metric = _metrics(sweeps)[0]
    scale = _scale(sweeps, metric)
    lines = _lines(sweeps, metric)
    strengths = sorted({w for line in lines for w in line.points})
    rows: list[tuple[SweepLine, list[Cell | None]]] = []
    for line in lines:
        cells = {w: scale.cell(point) for w, point in line.points.items()}
        rows.append((line, [cells.get(w) for w in strengths]))
    return {"head": ["label", "runs", *map(name_of, strengths)], "rows": rows}


def _plot(sweeps: Sequence[Sweep], metric: str) -> Plot:
    scale = _scale(sweeps, metric)
    lines = _lines(sweeps, metric)
    unit = f" ({scale.unit})" if scale.unit else ""
    title = f"{spoken(metric)}{unit} by strength of guidance"
    scores = []
    for line in lines:
        of_line = ", ".join(f"{scale.text(point.value)} at {w:g}" for w, point in line.points.items())
        scores.append(f"{line.label}: {of_line}")
    width, height = (560, 340) if metric == _metrics(sweeps)[0] else (360, 250)
    strengths = sorted({w for line in lines for run in line.runs for w in run})
    with drawing(f"plot-{metric}", f"{title}. {'; '.join(scores)}", width, height) as plot:
        axes = plot.axes
        if all(map(_is_run_itself, sweeps)):
            axes.axvline(1, color=QUIET, linewidth=1.1, linestyle=":")
        for number, line in enumerate(lines):
            _draw(axes, line, number % len(SERIES), scale.factor)
        _lay_out(axes, strengths)
        if len(lines) > 1:
            axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=2, borderpad=0, handlelength=2.2)
    return Plot(title, plot.svg, _caption(sweeps, metric, [len(line.runs) for line in lines]))


def _caption(sweeps: Sequence[Sweep], metric: str, sizes: Sequence[int]) -> str:
    direction = {True: "Higher is better.", False: "Lower is better.", None: "How it draws, not how well."}
    parts = [direction[_higher(sweeps, metric)]]
    if min(sizes) == 1:
        parts.append("Upright bars are 95 % intervals over prompts.")
    if max(sizes) > 1:
        parts.append(
            "A band goes from the lowest of several runs to the highest, with each run faintly and their mean."
        )
    if all(map(_is_run_itself, sweeps)):
        parts.append("At w = 1, the dotted line, an image is the aligned run's own.")
    return " ".join(parts)


def _draw(axes: Axes, line: SweepLine, number: int, factor: float) -> None:
    """One run with its intervals; of several the mean, a band from the lowest to the highest, and each faintly."""
    color = SERIES[number]
    strengths = list(line.points)
    points = list(line.points.values())
    low = [factor * point.low for point in points]
    high = [factor * point.high for point in points]
    axes.plot(
        strengths, [factor * point.value for point in points], linewidth=2, markersize=4.5, label=line.label,
        color=color, linestyle=DASHES[number], marker=MARKERS[number],
    )  # fmt: skip
    if len(line.runs) == 1:
        axes.vlines(strengths, low, high, color=color, linewidth=1.3)
        return
    axes.fill_between(strengths, low, high, color=color, alpha=0.15, linewidth=0)
    for run in line.runs:
        axes.plot(list(run), [factor * point.value for point in run.values()], color=color, linewidth=0.8, alpha=0.5)


def _lay_out(axes: Axes, scales: Sequence[float]) -> None:
    """Strengths up to 1 lie evenly, and beyond it each doubling takes as much room."""
    if max(map(abs, scales)) > 2:
        axes.set_xscale("symlog", base=2, linthresh=1, linscale=1)
    axes.set_xticks(scales, [f"{scale:g}" for scale in scales])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("strength w (0 is the base model)")


def _grid(sweep: Sweep) -> list[Example]:
    """A few prompts by lot, with one seed each, at every strength."""
    if sweep.judged is not None:
        return examples(sweep.judged, NUM_EXAMPLES, EXAMPLE_SEED)
    images = {name_of(scale): path for scale, path in sweep.images.items()}
    return unjudged_examples(images, NUM_EXAMPLES, EXAMPLE_SEED)
