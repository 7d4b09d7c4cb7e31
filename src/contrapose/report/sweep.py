"""A sweep over strengths of guidance: its folder, and the page of scores and images by strength.

sweep/images.yaml      the settings that all strengths share, with digests of what they name in inputs.yaml
      scale-0.5/       the images at w = 0.5, in GenEval's layout
      rows.parquet     what the judge said of each image, where there was one
      summary.json     the summary of these rows, and under `sweep` the label and the scales
      judged.yaml      digests of the images that were judged
      page.html
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.axes import Axes

from contrapose import __version__, runfile
from contrapose.core.guidance import Strength
from contrapose.documents import dump_yaml, load_json, load_yaml
from contrapose.errors import UserError
from contrapose.evaluate.images import digest_of_images, prompt_folders
from contrapose.evaluate.rows import write_rows
from contrapose.evaluate.run import UNTAGGED, Judge, evaluate_images
from contrapose.evaluate.statistics import Interval
from contrapose.evaluate.summary import Settings, read_summary, summarize, write_summary
from contrapose.files import write_text
from contrapose.guiding.images import CONVERTER, Sampling, inputs_of
from contrapose.guiding.images import SETTINGS as OF_IMAGES
from contrapose.ranges import Number, check, checked
from contrapose.report.drawing import QUIET, SERIES, drawing
from contrapose.report.evidence import ROWS, SUMMARY, Evidence, Judged, headlines, spoken
from contrapose.report.examples import Example, Shown, choose, embedded, examples
from contrapose.report.numbers import Scale
from contrapose.report.plots import Plot
from contrapose.report.provenance import sampling, settings_of, versions

JUDGED = "judged.yaml"
PAGE = "page.html"
NUM_EXAMPLES, EXAMPLE_SEED = 6, 0
_MARKERS, _DASHES = "osD^vP", ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)), "-", "--")
_CONVERTER = runfile.converter()
_MEND = "delete it and run 'contrapose sweep' again"
Points = dict[float, Interval]
"""Score by strength."""


@dataclass(frozen=True)
@checked
class Known:
    """What `summary.json` says under `sweep`."""

    label: str
    scales: tuple[Number, ...]
    judged: bool

    def __post_init__(self) -> None:
        if not self.scales or len(set(map(_name, self.scales))) < len(self.scales):
            raise UserError("scales are no different numbers")


class Sweep(NamedTuple):
    """A finished sweep; `judged` is None where no suite judged its images."""

    folder: Path
    label: str
    images: dict[float, Path]
    judged: Judged | None


class Line(NamedTuple):
    """The sweeps of one label: each training seed's own scores, and what is drawn for all of them."""

    label: str
    runs: list[Points]

    @property
    def points(self) -> Points:
        """One run's scores with their intervals; of several, the mean, the lowest and the highest."""
        if len(self.runs) == 1:
            return self.runs[0]
        shared = [scale for scale in self.runs[0] if all(scale in run for run in self.runs)]
        of = {scale: [run[scale].value for run in self.runs] for scale in shared}
        return {scale: Interval(sum(v) / len(v), min(v), max(v)) for scale, v in of.items()}

    def as_json(self) -> dict[str, Any]:
        runs = [{scale: asdict(interval) for scale, interval in run.items()} for run in self.runs]
        return {"label": self.label, "runs": runs}


def read_scales(text: str) -> list[float]:
    """Strengths in rising order from `0,0.5,1`; `UserError` for what is no list of different numbers."""
    try:
        scales = [float(part) + 0.0 for part in text.split(",")]  # + 0.0: there is but one zero
    except ValueError:
        raise UserError(f"--scales {text}: write numbers separated by commas, such as 0,0.5,1,2") from None
    for scale in scales:
        check("--scales", scale, Strength)
    if len({_name(scale) for scale in scales}) < len(scales):
        raise UserError(f"--scales {text}: a strength is named twice")
    return sorted(scales)


def folder_of(out: Path, scale: float) -> Path:
    return out / f"scale-{scale:g}"


def _name(scale: float) -> str:
    return f"w = {scale:g}"


def claim(out: Path, settings: Sampling) -> None:
    """Write what all strengths share into the sweep's folder; `UserError` when it holds a sweep of other settings."""
    shared = CONVERTER.unstructure(settings)
    del shared["guidance"]["scale"]
    runfile.claim(out / OF_IMAGES, shared, CONVERTER, free=["batch_size"], inputs=inputs_of(settings))


def sum_up(
    out: Path,
    scales: Sequence[float],
    label: str,
    judge: Judge | None,
    lower_is_better: Collection[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> bool:
    """Judge the images of all strengths and write the folder's summary; False where that was done already."""
    known = Known(label or out.absolute().name, tuple(scales), judge is not None)
    folders = {scale: folder_of(out, scale) for scale in scales}
    digests = {folder.name: digest_of_images(folder) for folder in folders.values()} if judge else {}
    if _is_summed_up(out, known, digests):
        if progress:
            num_images = sum(scores.num_images for scores in read_summary(out / SUMMARY).models.values())
            progress(num_images, num_images)
        return False
    summary = None
    if judge is not None:
        rows = evaluate_images({_name(scale): folder for scale, folder in folders.items()}, judge, progress=progress)
        base = _name(0) if 0 in scales else None
        summary = summarize(rows, Settings(base=base, lower_is_better=frozenset(lower_is_better)))
        write_rows(rows, out / ROWS)
    write_summary(summary, out / SUMMARY, {"sweep": _CONVERTER.unstructure(known)})
    write_text(out / JUDGED, dump_yaml(digests))  # last: what was killed before is judged again
    return True


def _is_summed_up(out: Path, known: Known, digests: Mapping[str, str]) -> bool:
    """Whether the folder's summary is of these strengths and of the images that are there now."""
    if not (out / SUMMARY).is_file() or not (out / JUDGED).is_file():
        return False
    return _known(out) == known and load_yaml(out / JUDGED, _MEND) == digests


def _known(folder: Path) -> Known:
    """What a sweep's summary says of itself; `UserError` for a folder that holds no finished sweep."""
    path = folder / SUMMARY
    values = load_json(path, _MEND) if path.is_file() else None
    if not isinstance(values, dict) or "sweep" not in values:
        raise UserError(f"{folder}: holds no finished sweep; make it with 'contrapose sweep'")
    return runfile.structured(path, values["sweep"], Known, _CONVERTER, _MEND)


def read_sweep(folder: Path) -> Sweep:
    """Raises `UserError` naming the folder, and the mend, for one that holds no finished sweep."""
    known = _known(folder)
    images = {scale: folder_of(folder, scale) for scale in known.scales}
    named = {_name(scale): path for scale, path in images.items()}
    judged = Judged(Evidence(known.label, folder, named)) if known.judged else None
    if judged and any(set(scores.metrics) != set(judged.metrics) for scores in judged.summary.models.values()):
        raise UserError(f"{folder / SUMMARY}: a strength lacks a metric; {_MEND}")
    return Sweep(folder, known.label, images, judged)


def write_page(sweeps: Sequence[Sweep], out: Path) -> Path:
    """Write `page.html` on one sweep, or on several with their lines' scores in `summary.json` beside it.

    Raises `UserError` when they cannot be compared.
    """
    _check(sweeps, out)
    page = render(sweeps)
    if len(sweeps) > 1:
        lines = {metric: [line.as_json() for line in _lines(sweeps, metric)] for metric in _metrics(sweeps)}
        write_summary(None, out / SUMMARY, {"sweeps": [str(sweep.folder) for sweep in sweeps], "lines": lines})
    write_text(out / PAGE, page)
    return out / PAGE


def _check(sweeps: Sequence[Sweep], out: Path) -> None:
    first = sweeps[0]
    for other in sweeps[1:]:
        if _prompts(other) != _prompts(first):
            raise UserError(f"{other.folder}: was made for other prompts than {first.folder}; sweep over the same ones")
        if _metrics([other]) != _metrics([first]):
            raise UserError(f"{other.folder}: was not judged as {first.folder} was; give both the same --suite")
        if out.resolve() in (other.folder.resolve(), first.folder.resolve()):
            raise UserError(f"{out}: holds a sweep itself; name another folder for the comparison")
    for label in {sweep.label for sweep in sweeps}:
        if not set.intersection(*(set(sweep.images) for sweep in sweeps if sweep.label == label)):
            raise UserError(
                f"the sweeps labelled {label} share no strength, so that they have no mean; label them apart"
            )


def _prompts(sweep: Sweep) -> list[str]:
    return [folder.metadata["prompt"] for folder in prompt_folders(next(iter(sweep.images.values())))]


def _metrics(sweeps: Sequence[Sweep]) -> list[str]:
    return sweeps[0].judged.metrics if sweeps[0].judged else []


def _lines(sweeps: Sequence[Sweep], metric: str) -> list[Line]:
    """One line for each label, in the order of their first sweeps."""
    found: dict[str, list[Points]] = {}
    for sweep in sweeps:
        assert sweep.judged is not None
        models = sweep.judged.summary.models
        points = {scale: models[_name(scale)].metrics[metric].overall for scale in sweep.images}
        found.setdefault(sweep.label, []).append(points)
    return [Line(label, runs) for label, runs in found.items()]


def render(sweeps: Sequence[Sweep]) -> str:
    """The page as text; all of it that people wrote is escaped by the template, or by matplotlib."""
    loader = PackageLoader("contrapose.report", ".")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["spoken"] = spoken
    judged = [sweep.judged for sweep in sweeps if sweep.judged]
    labels: dict[str, Sweep] = {}
    for sweep in sweeps:
        labels.setdefault(sweep.label, sweep)
    table = sampling({_title(sweep, sweeps): sweep.folder for sweep in sweeps})
    return environment.get_template("sweep.html.j2").render(
        title=" and ".join(labels) if len(labels) < 4 else "Sweeps compared",
        version=__version__,
        style=Markup(loader.get_source(environment, "style.css")[0]),
        summary=_best(sweeps) + (headlines(judged[0]) if len(judged) == 1 else []),
        plots=[_plot(sweeps, metric) for metric in _metrics(sweeps)],
        table=_table(sweeps) if len(sweeps) > 1 and judged else None,
        tables=[(_title(sweep, sweeps), sweep.judged) for sweep in sweeps if sweep.judged],
        grids=[(sweep.label, _grid(sweep)) for sweep in labels.values()],
        settings=list(zip(table.head, *table.rows, strict=True)),
        versions=versions(),
    )


def _title(sweep: Sweep, sweeps: Sequence[Sweep]) -> str:
    """The label, and the folder where several sweeps have it."""
    several = [other.label for other in sweeps].count(sweep.label) > 1
    return f"{sweep.label} ({sweep.folder})" if several else sweep.label


def _scale(sweeps: Sequence[Sweep], metric: str) -> Scale:
    """As many decimals as all of them can do with."""
    return max((sweep.judged.scale(metric) for sweep in sweeps if sweep.judged), key=lambda scale: scale.decimals)


def _is_run_itself(sweep: Sweep) -> bool:
    """Whether w = 1 is the aligned run without guidance."""
    guidance = settings_of(sweep.folder).get("guidance") or {}
    plain = {"name": "pgd", "schedule": "constant", "interval": [0.0, 1.0], "rescale": 0.0}
    return {key: guidance.get(key) for key in plain} == plain


def _best(sweeps: Sequence[Sweep]) -> list[str]:
    """Where each line is best by the first metric, in a sentence."""
    found = []
    for metric in _metrics(sweeps)[:1]:
        scale, sign = _scale(sweeps, metric), 1 if _higher(sweeps, metric) else -1
        for line in _lines(sweeps, metric):
            told = {w: f"{scale.text(point.value)}{scale.unit} at w = {w:g}" for w, point in line.points.items()}
            best = max(line.points, key=lambda w: sign * line.points[w].value)
            others = " and ".join(told[w] for w in (0.0, 1.0) if w in told and w != best)
            runs = f" (mean of {len(line.runs)} runs)" if len(line.runs) > 1 else ""
            against = f", against {others}" if others else ""
            found.append(f"{line.label}{runs}: {spoken(metric)} is best with {told[best]}{against}.")
    return found


def _higher(sweeps: Sequence[Sweep], metric: str) -> bool:
    assert sweeps[0].judged is not None
    return sweeps[0].judged.summary.metrics[metric].higher_is_better


def _table(sweeps: Sequence[Sweep]) -> dict[str, Any]:
    """The first metric of every line by strength."""
    metric = _metrics(sweeps)[0]
    scale, lines = _scale(sweeps, metric), _lines(sweeps, metric)
    strengths = sorted({w for line in lines for w in line.points})
    cells = [[scale.cell(line.points[w]) if w in line.points else None for w in strengths] for line in lines]
    return {"head": ["label", "runs", *map(_name, strengths)], "rows": list(zip(lines, cells, strict=True))}


def _plot(sweeps: Sequence[Sweep], metric: str) -> Plot:
    scale, lines, first = _scale(sweeps, metric), _lines(sweeps, metric), metric == _metrics(sweeps)[0]
    title = f"{spoken(metric)}{f' ({scale.unit})' if scale.unit else ''} by strength of guidance"
    told = "; ".join(
        f"{line.label}: " + ", ".join(f"{scale.text(p.value)} at {w:g}" for w, p in line.points.items())
        for line in lines
    )
    with drawing(f"plot-{metric}", f"{title}. {told}", *((560, 340) if first else (360, 250))) as plot:
        axes = plot.axes
        if all(map(_is_run_itself, sweeps)):
            axes.axvline(1, color=QUIET, linewidth=1.1, linestyle=":")
        for number, line in enumerate(lines):
            _draw(axes, line, number % len(SERIES), scale.factor)
        _lay_out(axes, sorted({w for line in lines for run in line.runs for w in run}))
        if len(lines) > 1:
            axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=2, borderpad=0, handlelength=2.2)
    return Plot(title, plot.svg, _caption(sweeps, metric, [len(line.runs) for line in lines]))


def _caption(sweeps: Sequence[Sweep], metric: str, sizes: Sequence[int]) -> str:
    parts = [f"{'Higher' if _higher(sweeps, metric) else 'Lower'} is better."]
    if min(sizes) == 1:
        parts.append("Upright bars are 95 % intervals over prompts.")
    if max(sizes) > 1:
        parts.append(
            "A band goes from the lowest of several runs to the highest, with each run faintly and their mean."
        )
    if all(map(_is_run_itself, sweeps)):
        parts.append("At w = 1, the dotted line, an image is the aligned run's own.")
    return " ".join(parts)


def _draw(axes: Axes, line: Line, number: int, factor: float) -> None:
    """One run with its intervals; of several the mean, a band from the lowest to the highest, and each faintly."""
    points, style = line.points, {"color": SERIES[number], "linestyle": _DASHES[number], "marker": _MARKERS[number]}
    value, low, high = ([factor * getattr(point, end) for point in points.values()] for end in ("value", "low", "high"))
    axes.plot(list(points), value, linewidth=2, markersize=4.5, label=line.label, **style)
    if len(line.runs) == 1:
        axes.vlines(list(points), low, high, color=SERIES[number], linewidth=1.3)
        return
    axes.fill_between(list(points), low, high, color=SERIES[number], alpha=0.15, linewidth=0)
    for run in line.runs:
        axes.plot(list(run), [factor * p.value for p in run.values()], color=SERIES[number], linewidth=0.8, alpha=0.5)


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
    folders = {scale: {folder.name: folder for folder in prompt_folders(path)} for scale, path in sweep.images.items()}
    keys = [{(name, seed) for name, one in of.items() for seed in one.samples} for of in folders.values()]
    shared = set.intersection(*keys)
    if not shared:
        raise UserError(f"{sweep.folder}: its strengths share no prompt and seed; run 'contrapose sweep' again")
    first = next(iter(folders.values()))
    found = []
    for name, seed in choose(dict.fromkeys(shared, UNTAGGED), [UNTAGGED], NUM_EXAMPLES, EXAMPLE_SEED):
        there = {scale: of[name].samples[seed] for scale, of in folders.items()}
        shown = tuple(Shown(_name(scale), *embedded(path), "", "", ()) for scale, path in there.items())
        found.append(Example(first[name].metadata["prompt"], "", seed, shown))
    return found
