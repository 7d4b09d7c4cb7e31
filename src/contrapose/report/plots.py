"""What is drawn: a run's curves, the comparison by noise level, and the forest of paired differences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes

from contrapose.report.drawing import FRAME, QUIET, SERIES, TEXT, drawing
from contrapose.report.numbers import MINUS
from contrapose.report.runs import RunFolder

_WIDTH, _HEIGHT = 330, 225
_MARKERS, _DASHES = "osD^vP", ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)), "-", "--")
_MOST_POINTS = 240  # of a curve; longer ones are averaged, which keeps the page small


class Line(NamedTuple):
    """A metric that a panel shows, and its name there."""

    metric: str
    label: str


class Panel(NamedTuple):
    """One small plot of a run: what it shows, and how to read it."""

    key: str
    title: str
    lines: tuple[Line, ...]
    caption: str
    zero: float | None = None  # the value at which nothing has been learned yet


class Plot(NamedTuple):
    """A finished plot."""

    title: str
    svg: Markup
    caption: str


PANELS = (
    Panel("loss", "Loss", (Line("loss", "training"), Line("held_out/loss", "held out")), "Lower is better."),
    Panel(
        "gain",
        "Error against the reference",
        (Line("winner_error_gain", "winner"), Line("loser_error_gain", "loser")),
        "Reference's error minus the trainee's. Above 0 the trainee explains that side's target better.",
        0.0,
    ),
    Panel(
        "error",
        "Error",
        (Line("winner_error", "winner"), Line("loser_error", "loser")),
        "Mean squared error to the target.",
    ),
    Panel(
        "accuracy",
        "Implicit accuracy",
        (Line("accuracy", "training"), Line("held_out/accuracy", "held out")),
        "Share of pairs in which the winner has the higher implicit reward; 0.5 is chance.",
        0.5,
    ),
    Panel(
        "drift",
        "Drift",
        (Line("drift", "training"), Line("held_out/drift", "held out")),
        "Mean squared distance between the trainee's and the reference's predictions.",
    ),
    Panel("grad", "Gradient norm", (Line("grad_norm", "norm"),), "Of a whole step's gradient, before clipping."),
    Panel("rate", "Learning rate", (Line("learning_rate", "learning rate"),), "As the schedule gave it to each step."),
)


def curves(run: RunFolder, key: str) -> list[Plot]:
    """Every panel of which the run has measured something."""
    panels = [panel for panel in PANELS if any(run.series(line.metric)[0] for line in panel.lines)]
    return [_curve(run, _with_log_2(run, panel), f"{key}-{panel.key}") for panel in panels]


def _with_log_2(run: RunFolder, panel: Panel) -> Panel:
    """With the sigmoid link a trainee equal to its reference has loss log 2."""
    link = run.settings["method"].get("link")
    if panel.key != "loss" or not isinstance(link, dict) or link.get("name") != "sigmoid":
        return panel
    return panel._replace(
        zero=math.log(2), caption="Lower is better; the dashed line is log 2, the loss before anything is learned."
    )


def _curve(run: RunFolder, panel: Panel, key: str) -> Plot:
    shown = [line for line in panel.lines if run.series(line.metric)[0]]
    last = "; ".join(f"{line.label} {_short(run.series(line.metric)[1][-1])}" for line in shown)
    with drawing(key, f"{panel.title} over {run.done} steps; at the end {last}", _WIDTH, _HEIGHT) as plot:
        _reference_line(plot.axes, panel.zero)
        for line in shown:
            number = panel.lines.index(line)
            steps, values = run.series(line.metric)
            noisy = not line.metric.startswith(("held_out/", "learning_rate"))
            _draw(plot.axes, steps, values, number, line.label, noisy)
        plot.axes.set_xlabel("step")
        _legend(plot.axes, len(shown))
    return Plot(panel.title, plot.svg, f"{panel.caption} At the end: {last}.")


def _draw(axes: Axes, steps: Sequence[float], values: Sequence[float], number: int, label: str, noisy: bool) -> None:
    """A line, with a mark for each measurement when there are few; noisy values lie faintly under their mean."""
    style = {"color": SERIES[number], "linestyle": _DASHES[number], "linewidth": 1.8, "label": label}
    if not noisy or len(steps) < 30:
        axes.plot(steps, values, marker=_MARKERS[number] if len(steps) < 30 else None, markersize=3.5, **style)
        return
    steps, values = _thinned(np.asarray(steps)), _thinned(np.asarray(values))
    axes.plot(steps, values, color=SERIES[number], linewidth=0.8, alpha=0.3)
    axes.plot(steps, running_mean(values, max(3, len(values) // 20)), **style)


def running_mean(values: np.ndarray, width: int) -> np.ndarray:
    """Centred mean over at most `width` values; windows shrink at the ends, so that nothing is made up there."""
    ones = np.ones(width)
    return np.convolve(values, ones, "same") / np.convolve(np.ones(len(values)), ones, "same")


def _thinned(values: np.ndarray) -> np.ndarray:
    parts = np.array_split(values, min(len(values), _MOST_POINTS))
    return np.array([part.mean() for part in parts])


def by_level(run: RunFolder, key: str) -> list[Plot]:
    """Accuracy and margin on the held-out pairs at each noise level: first, middle and last measurement."""
    panels = (
        ("accuracy", "Implicit accuracy by noise level", 0.5, "Where in the noise the winner is told from the loser."),
        ("margin", "Margin by noise level", 0.0, "Winner's implicit reward minus the loser's."),
    )
    found = []
    for name, title, zero, caption in panels:
        measured = run.levels(name)
        steps = sorted(measured)
        if not steps:
            continue
        chosen = sorted({steps[0], steps[len(steps) // 2], steps[-1]})
        last = ", ".join(f"{_short(value)} at {level:g}" for level, value in measured[chosen[-1]].items())
        with drawing(f"{key}-{name}-level", f"{title}; at the end {last}", _WIDTH, _HEIGHT) as plot:
            _reference_line(plot.axes, zero)
            for step in chosen:
                number = len(SERIES[:3]) - 1 - chosen[::-1].index(step)  # the last step keeps its colour and mark
                values = measured[step]
                style = {"color": SERIES[number], "linestyle": _DASHES[number], "marker": _MARKERS[number]}
                plot.axes.plot(
                    list(values), list(values.values()), markersize=4, linewidth=1.8, label=f"step {step:g}", **style
                )
            plot.axes.set_xticks(list(measured[chosen[-1]]))
            plot.axes.set_xlabel("noise level (0 is data, 1 is noise)")
            _legend(plot.axes, len(chosen))
        found.append(Plot(title, plot.svg, f"{caption} Held-out pairs; at the end {last}."))
    return found


class Estimate(NamedTuple):
    """One model's difference from the base, in the unit that is shown."""

    model: str
    value: float
    low: float
    high: float


def forest(rows: Sequence[tuple[str, Sequence[Estimate]]], models: Sequence[str], unit: str, key: str) -> Markup:
    """Differences from the base with their intervals, one line for each row (overall, or a category) and model."""
    step = 1 / (len(models) + 1)
    label = "; ".join(
        f"{e.model} {name}: {e.value:+.3g} [{e.low:+.3g}, {e.high:+.3g}]" for name, es in rows for e in es
    )
    with drawing(key, f"Differences from the base. {label}", 400, 90 + len(rows) * (16 + 13 * len(models))) as plot:
        axes = plot.axes
        axes.axvline(0, color=TEXT, linewidth=1)
        for index, (_, estimates) in enumerate(rows):
            for e in estimates:
                number = list(models).index(e.model)
                y = index + (number + 1) * step - 0.5
                axes.plot(
                    [e.low, e.high], [y, y], color=SERIES[number % len(SERIES)], linewidth=2, solid_capstyle="butt"
                )
                axes.plot(
                    [e.value], [y], _MARKERS[number % len(_MARKERS)], color=SERIES[number % len(SERIES)], markersize=5.5
                )
        for number, model in enumerate(models):
            mark = {"marker": _MARKERS[number % len(_MARKERS)], "color": SERIES[number % len(SERIES)]}
            axes.plot([], [], linewidth=2, label=model, **mark)
        axes.axhline(0.5, color=FRAME, linewidth=1.2)
        axes.set_yticks(range(len(rows)), [name for name, _ in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(f"difference from the base{f' ({unit})' if unit else ''}")
        _legend(axes, len(models))
    return plot.svg


def _short(value: float) -> str:
    return f"{value:.3g}".replace("-", MINUS)


def _reference_line(axes: Axes, value: float | None) -> None:
    if value is not None:
        axes.axhline(value, color=QUIET, linewidth=1.1, linestyle="--")


def _legend(axes: Axes, number: int) -> None:
    """Above the plot, where it can cover nothing; one line alone needs none."""
    if number > 1:
        axes.legend(
            loc="lower left",
            bbox_to_anchor=(-0.02, 1.0),
            ncols=min(number, 3),
            borderpad=0,
            handlelength=2.2,
            columnspacing=1.2,
        )
