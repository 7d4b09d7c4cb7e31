"""A summary in plain lines, as a terminal shows it."""

from __future__ import annotations

from collections.abc import Iterator

from contrapose.evaluate.statistics import Interval
from contrapose.evaluate.summary import Comparison, Summary


def lines(summary: Summary) -> Iterator[str]:
    """The scores by the first metric, each method's runs beneath it, and what a reader has to know of them."""
    metric = next(iter(summary.metrics))
    runs = {run for scores in summary.methods.values() for run in scores.runs}
    for model, scores in summary.models.items():
        if model not in runs:
            yield _line(model, scores.metrics[metric].overall, summary.comparisons.get(model, {}).get(metric), summary)
    for method, combined in summary.methods.items():
        line = _line(method, combined.metrics[metric].overall, combined.comparisons.get(metric), summary)
        yield f"{line}   ({len(combined.runs)} training seeds)"
        for run in combined.runs:
            overall = summary.models[run].metrics[metric].overall
            yield _line(f"  {run}", overall, summary.comparisons.get(run, {}).get(metric), summary)
    yield from summary.notes


def _line(name: str, score: Interval, compared: Comparison | None, summary: Summary) -> str:
    line = f"{name:<16} {score.value:.3f}  [{score.low:.3f}, {score.high:.3f}]"
    if compared is None:
        return line
    gain = compared.difference
    line += f"   {gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}] against {summary.base}, p {compared.p_holm:.2g}"
    if compared.smallest_difference:  # where nothing differs at all, 0 would say nothing
        line += f"; under {compared.smallest_difference:.3f} unseen"
    return line
