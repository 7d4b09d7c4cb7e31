"""Reward hacking: a gain on the judge that a model was trained for, which judges held out of training do not share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from contrapose.errors import UserError
from contrapose.evaluate.statistics import Interval
from contrapose.judges.judge import Judge, Jury

if TYPE_CHECKING:
    from contrapose.evaluate.summary import Summary

Writer = Callable[[str, Interval], str]
"""From a metric and a difference by it to its words."""


@dataclass(frozen=True)
class Alarm:
    """A model or a method that is clearly better by what it was trained for, and not by judges held out of training."""

    name: str
    trained_for: str
    held_out: tuple[str, ...]
    """The metrics that do not share the gain: all that were held out, or those by which it is clearly worse."""
    text: str
    """The same in words, with the numbers."""


def alarms(summary: Summary, trained_for: Sequence[str], not_held_out: Iterable[str] = ()) -> tuple[Alarm, ...]:
    """The alarms of all models and methods.

    A gain is shared where a held-out metric is clearly better too and none is clearly worse; clear is what interval and
    Holm's p agree on (`Summary.clearly`). Where nothing was held out of training, there is no alarm, since there is no
    evidence of it either. Metrics without a better direction are no judges.
    """
    held_out = held_out_of(summary, trained_for, not_held_out)
    raised: list[Alarm] = []
    for name, compared in summary.compared().items():
        verdicts = {metric: summary.clearly(compared[metric], metric) for metric in (*trained_for, *held_out)}
        worse = [metric for metric in held_out if verdicts[metric] < 0]
        better = [metric for metric in held_out if verdicts[metric] > 0]
        if not held_out or (better and not worse):
            continue
        for metric in trained_for:
            if verdicts[metric] > 0:
                alarm = Alarm(name, metric, tuple(worse or held_out), "")
                raised.append(replace(alarm, text=sentence(alarm, summary, _plainly)))
    return tuple(raised)


def held_out_of(summary: Summary, trained_for: Sequence[str], not_held_out: Iterable[str] = ()) -> list[str]:
    """The metrics that nothing was trained for.

    Raises `UserError` for a metric that was not judged, and one that has no better direction.
    """
    judged = [metric for metric, how in summary.metrics.items() if how.higher_is_better is not None]
    check_trained_for(trained_for, judged)
    taken = {*trained_for, *not_held_out}
    return [metric for metric in judged if metric not in taken]


def check_trained_for(trained_for: Sequence[str], judged: Sequence[str]) -> None:
    """Raise `UserError` for a metric that is none of those judged."""
    for metric in trained_for:
        if metric not in judged:
            raise UserError(f"--trained-for {metric}: is not judged here; choose from {', '.join(judged)}")


def sentence(alarm: Alarm, summary: Summary, written: Writer, named: Callable[[str], str] = str) -> str:
    """An alarm in words, with numbers as `written` writes them, and metrics called what `named` calls them."""
    compared = summary.compared()[alarm.name]

    def numbers(metric: str) -> str:
        direction = "" if summary.metrics[metric].higher_is_better else ", where lower is better"
        win_rate = compared[metric].win_rate.value
        return f"{written(metric, compared[metric].difference)}{direction}, win rate {100 * win_rate:.0f} %"

    clear = any(summary.clearly(compared[metric], metric) < 0 for metric in alarm.held_out)
    shared = "clearly worse by" if clear else "not clearly better by any judge held out of training:"
    by_metric = "; ".join(f"{named(metric)} ({numbers(metric)})" for metric in alarm.held_out)
    return (
        f"Reward hacking? By {named(alarm.trained_for)}, which it was trained for, {alarm.name} is clearly better than "
        f"{summary.base} ({numbers(alarm.trained_for)}), but {shared} {by_metric}."
    )


def _plainly(metric: str, difference: Interval) -> str:
    return f"{difference.value:+#.3g} [{difference.low:+#.3g}, {difference.high:+#.3g}]"


def of_trained_judges(judge: Judge, trained_for: Sequence[str]) -> tuple[str, ...]:
    """Further numbers of the judges that were trained for, under their names, such as questions_mean by questions.

    They are other readings of the same answers, and hold nothing out. Numbers of one judge under other names, such as
    the detector's of the shapes world, measure other things.
    """
    further: list[str] = []
    for member in judge.judges if isinstance(judge, Jury) else [judge]:
        readings = [metric for metric in member.higher_is_better if metric.partition("_")[0] == member.name]
        if any(metric in trained_for for metric in readings):
            further += [metric for metric in readings if metric not in trained_for]
    return tuple(further)
