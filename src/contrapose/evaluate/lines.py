"""A summary in plain lines, as a terminal shows it."""

from __future__ import annotations

from collections.abc import Iterator

from contrapose.evaluate.sets.lines import set_lines
from contrapose.evaluate.statistics import Interval
from contrapose.evaluate.summary import Comparison, Summary


def summary_lines(summary: Summary, called: str = "") -> Iterator[str]:
    """Scores by the first metric, numbers of sets, how the models draw, and what a reader has to know of them all.

    Each method's runs follow it. `called` is what the suite's numbers are called.
    """
    if called:
        yield called
    describing = [metric for metric, reading in summary.metrics.items() if reading.higher_is_better is None]
    first = next(iter(summary.metrics))
    if first not in describing:
        yield from _of_metric(summary, first)
    if summary.sets is not None:
        yield from set_lines(summary.sets, summary.base)
    for metric in describing:
        yield f"{metric}: how a model draws, not how well"
        yield from _of_metric(summary, metric)
    for alarm in summary.alarms:
        yield alarm.text
    yield from summary.notes


def _of_metric(summary: Summary, metric: str) -> Iterator[str]:
    """A line of each model and method that was judged by the metric, and of every two methods."""
    runs = {run for scores in summary.methods.values() for run in scores.runs}
    for model, scores in summary.models.items():
        if model not in runs and metric in scores.metrics:
            compared = summary.comparisons.get(model, {}).get(metric)
            yield _line(model, metric, scores.metrics[metric].overall, compared, summary)
    for method, combined in summary.methods.items():
        line = _line(method, metric, combined.metrics[metric].overall, combined.comparisons.get(metric), summary)
        yield f"{line}   ({len(combined.runs)} training seeds)"
        for run in combined.runs:
            overall = summary.models[run].metrics[metric].overall
            yield _line(f"  {run}", metric, overall, summary.comparisons.get(run, {}).get(metric), summary)
    for pair in summary.pairs:
        yield f"{pair}: {_gain(pair.comparisons[metric], metric, '', summary)}"


def _line(name: str, metric: str, score: Interval, compared: Comparison | None, summary: Summary) -> str:
    line = f"{name:<16} {score.value:.3f}  [{score.low:.3f}, {score.high:.3f}]"
    if compared is None:
        return line
    return f"{line}   {_gain(compared, metric, f'against {summary.base}', summary)}"


def _gain(compared: Comparison, metric: str, against: str, summary: Summary) -> str:
    """A difference, and what it was tested with."""
    gain = compared.difference
    line = f"{gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}] {against}".rstrip()
    if summary.metrics[metric].higher_is_better is None:
        return line  # no claim to be better, so that no test of one
    line += f", p {compared.p_holm:.2g}"
    if compared.smallest_difference:  # where nothing differs at all, 0 would say nothing
        line += f"; under {compared.smallest_difference:.3f} unseen"
    return line
