"""What is drawn: a run's curves, the comparison by noise level, and the forest of paired differences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes

from contrapose.evaluate.statistics import Interval
from contrapose.report.drawing import DASHES, FRAME, MARKERS, QUIET, SERIES, TEXT, drawing, short
from contrapose.report.runs import ShownRun
from contrapose.runs.metrics import JUDGED, ROLLOUTS

_WIDTH = 330
_HEIGHT = 225
_MOST_POINTS = 240  # of a curve; longer ones are averaged, which keeps the page small


class Curve(NamedTuple):
    """A metric that a panel shows, and its name there."""

    metric: str
    label: str


class Panel(NamedTuple):
    """One small plot of a run: what it shows, and how to read it."""

    key: str
    title: str
    lines: tuple[Curve, ...]
    caption: str
    zero: float | None = None  # the value at which nothing has been learned yet


class Plot(NamedTuple):
    """A finished plot."""

    title: str
    svg: Markup
    caption: str


PANELS = (
    Panel("loss", "Loss", (Curve("loss", "training"), Curve("held_out/loss", "held out")), "Lower is better."),
    Panel(
        "gain",
        "Error against the reference",
        (Curve("winner_error_gain", "winner"), Curve("loser_error_gain", "loser")),
        "Reference's error minus the trainee's. Above 0 the trainee explains that side's target better.",
        0.0,
    ),
    Panel(
        "accuracy",
        "Implicit accuracy",
        (Curve("accuracy", "training"), Curve("held_out/accuracy", "held out")),
        "Share of comparisons that the implicit reward decides as the labels do; 0.5 is chance.",
        0.5,
    ),
    Panel(
        "drift",
        "Drift",
        (Curve("drift", "training"), Curve("held_out/drift", "held out")),
        "Mean squared distance between the trainee's and the reference's predictions.",
    ),
    Panel(
        "error",
        "Error",
        (Curve("winner_error", "winner"), Curve("loser_error", "loser"), Curve("error", "what is fitted")),
        "Mean squared error to the target; of self-npo Huber's distance.",
    ),
    Panel(
        "reward",
        "Reward of own samples",
        (Curve(f"{ROLLOUTS}reward", "mean"),),
        "What the judges say of the samples that the model drew itself to train on, and what it is trained towards.",
    ),
    Panel("grad", "Gradient norm", (Curve("grad_norm", "norm"),), "Of a whole step's gradient, before clipping."),
    Panel("rate", "Learning rate", (Curve("learning_rate", "learning rate"),), "As the schedule gave it to each step."),
)


def curves(run: ShownRun, key: str) -> list[Plot]:
    """Every panel of which the run has measured something."""
    plots = []
    for panel in PANELS:
        measured = [line for line in panel.lines if run.series(line.metric)[0]]
        if measured:
            plots.append(_curve(run, _with_log_2(run, panel), f"{key}-{panel.key}"))
    return plots


def judged_curves(run: ShownRun, key: str) -> list[Plot]:
    """What each judge says of the watched prompts' images by step, with the interval over prompts."""
    names = dict.fromkeys(name for line in run.metrics for name in line if name.startswith(JUDGED))
    plots = []
    for name in names:
        if name.endswith(("/low", "/high")):
            continue
        title = name.removeprefix(JUDGED)
        steps, values = run.series(name)
        if not steps:
            continue
        last = f"{title} {short(values[-1], 3)}"
        with drawing(f"{key}-{name}", f"{title} over {run.done} steps; at the end {last}", _WIDTH, _HEIGHT) as plot:
            _draw(plot.axes, steps, values, 0, title, noisy=False)
            low_steps, lows = run.series(f"{name}/low")
            high_steps, highs = run.series(f"{name}/high")
            if low_steps == high_steps:
                plot.axes.fill_between(low_steps, lows, highs, color=SERIES[0], alpha=0.2, linewidth=0)
            _reference_line(plot.axes, values[0] if steps[0] == 0 else None)
            plot.axes.set_xlabel("step")
        caption = f"Of the watched prompts' images; the band is the 95 % interval over prompts. At the end: {last}."
        plots.append(Plot(f"Judged: {title}", plot.svg, caption))
    return plots


def _with_log_2(run: ShownRun, panel: Panel) -> Panel:
    """With the sigmoid link a trainee equal to its reference has loss log 2."""
    if panel.key != "loss" or run.link != "sigmoid":
        return panel
    return panel._replace(
        zero=math.log(2), caption="Lower is better; the dashed line is log 2, the loss before anything is learned."
    )


def _curve(run: ShownRun, panel: Panel, key: str) -> Plot:
    shown = [line for line in panel.lines if run.series(line.metric)[0]]
    last = "; ".join(f"{line.label} {short(run.series(line.metric)[1][-1], 3)}" for line in shown)
    with drawing(key, f"{panel.title} over {run.done} steps; at the end {last}", _WIDTH, _HEIGHT) as plot:
        _reference_line(plot.axes, panel.zero)
        for line in shown:
            number = panel.lines.index(line)
            steps, values = run.series(line.metric)
            noisy = not line.metric.startswith(("held_out/", "learning_rate", ROLLOUTS))
            _draw(plot.axes, steps, values, number, line.label, noisy)
        plot.axes.set_xlabel("step")
        _legend(plot.axes, len(shown))
    return Plot(panel.title, plot.svg, f"{panel.caption} At the end: {last}.")


def _draw(axes: Axes, steps: Sequence[float], values: Sequence[float], number: int, label: str, noisy: bool) -> None:
    """A line, with a mark for each measurement when there are few; noisy values lie faintly under their mean."""
    style: dict[str, Any] = {"color": SERIES[number], "linestyle": DASHES[number], "linewidth": 1.8, "label": label}
    # under 30 points a mean would hide what was measured, and their marks do not yet touch each other
    if not noisy or len(steps) < 30:
        axes.plot(steps, values, marker=MARKERS[number] if len(steps) < 30 else None, markersize=3.5, **style)
        return
    few_steps = _thinned(np.asarray(steps))
    few_values = _thinned(np.asarray(values))
    axes.plot(few_steps, few_values, color=SERIES[number], linewidth=0.8, alpha=0.3)
    axes.plot(few_steps, running_mean(few_values, max(3, len(few_values) // 20)), **style)


def running_mean(values: np.ndarray, width: int) -> np.ndarray:
    """Centred mean over at most `width` values; windows shrink at the ends, so that nothing is made up there."""
    ones = np.ones(width)
    # the second sum counts the values that each window holds
    return np.convolve(values, ones, "same") / np.convolve(np.ones(len(values)), ones, "same")


def _thinned(values: np.ndarray) -> np.ndarray:
    """At most `_MOST_POINTS` values, each the mean of its share of all."""
    parts = np.array_split(values, min(len(values), _MOST_POINTS))
    return np.array([part.mean() for part in parts])


def by_level(run: ShownRun, key: str) -> list[Plot]:
    """Accuracy and margin on the held-out pairs at each noise level: first, middle and last measurement."""
    panels = (
        ("accuracy", "Implicit accuracy by noise level", 0.5, "Where in the noise the better image is told."),
        ("margin", "Margin by noise level", 0.0, "Implicit reward of winners, or likes, minus that of the others."),
    )
    plots = []
    for name, title, zero, caption in panels:
        measured = run.levels(name)
        steps = sorted(measured)
        if not steps:
            continue
        # a set, since of one or two measurements the middle one is the first or the last
        chosen = sorted({steps[0], steps[len(steps) // 2], steps[-1]})
        last = ", ".join(f"{short(value, 3)} at {level:g}" for level, value in measured[chosen[-1]].items())
        with drawing(f"{key}-{name}-level", f"{title}; at the end {last}", _WIDTH, _HEIGHT) as plot:
            _reference_line(plot.axes, zero)
            for step in chosen:
                # counted from the end, so that the last step has the same colour and mark however many are shown
                number = 2 - chosen[::-1].index(step)
                values = measured[step]
                style: dict[str, Any] = {
                    "color": SERIES[number],
                    "linestyle": DASHES[number],
                    "marker": MARKERS[number],
                }
                plot.axes.plot(
                    list(values), list(values.values()), markersize=4, linewidth=1.8, label=f"step {step:g}", **style
                )
            plot.axes.set_xticks(list(measured[chosen[-1]]))
            plot.axes.set_xlabel("noise level (0 is data, 1 is noise)")
            _legend(plot.axes, len(chosen))
        plots.append(Plot(title, plot.svg, f"{caption} Held-out pairs; at the end {last}."))
    return plots


def forest(rows: Sequence[tuple[str, Mapping[str, Interval]]], models: Sequence[str], unit: str, key: str) -> Markup:
    """Differences from the base with their intervals: a row for all prompts and for each category, a line a model."""
    spoken = []
    for name, differences in rows:
        for model, difference in differences.items():
            spoken.append(f"{model} {name}: {difference.value:+.3g} [{difference.low:+.3g}, {difference.high:+.3g}]")
    # room for the legend and the axis, and for each row some air and a line a model
    height = 90 + len(rows) * (16 + 13 * len(models))
    with drawing(key, f"Differences from the base. {'; '.join(spoken)}", 400, height) as plot:
        axes = plot.axes
        step = 1 / (len(models) + 1)  # a row is one unit high, and its models share it evenly
        axes.axvline(0, color=TEXT, linewidth=1)
        for index, (_, differences) in enumerate(rows):
            for model, difference in differences.items():
                number = list(models).index(model)
                color = SERIES[number % len(SERIES)]
                y = index + (number + 1) * step - 0.5
                axes.plot([difference.low, difference.high], [y, y], color=color, linewidth=2, solid_capstyle="butt")
                axes.plot([difference.value], [y], MARKERS[number % len(MARKERS)], color=color, markersize=5.5)
        # empty lines for the legend alone: a model may lack a category, and is to be named once
        for number, model in enumerate(models):
            mark: dict[str, Any] = {"marker": MARKERS[number % len(MARKERS)], "color": SERIES[number % len(SERIES)]}
            axes.plot([], [], linewidth=2, label=model, **mark)
        # the first row, of all prompts, is set off from the categories below it
        axes.axhline(0.5, color=FRAME, linewidth=1.2)
        axes.set_yticks(range(len(rows)), [name for name, _ in rows])
        # upside down, so that the first row is at the top
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(f"difference from the base{f' ({unit})' if unit else ''}")
        _legend(axes, len(models))
    return plot.svg


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
