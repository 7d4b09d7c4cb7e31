"""A run folder as the report sees it: settings, metrics, and how far it got; a killed run is read as it lies.

Settings are looked up by name instead of being read as `Run`, so that runs of earlier versions are shown as well.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from contrapose import runfile
from contrapose.backbones.kinds import ADAPTER_KINDS
from contrapose.durations import in_words
from contrapose.errors import UserError
from contrapose.ranges import Range, checked
from contrapose.renamed import RENAMED
from contrapose.report.numbers import count, size
from contrapose.runs.best import read_best
from contrapose.runs.folder import AGAIN, RunFolder
from contrapose.runs.names import FINISHED, RUN_FILE

_STEPS = Range(1, 10**9, integer=True)
_Number = Annotated[int, Range(0, 10**15, integer=True)]
_CONVERTER = runfile.converter()
STATE = "State"  # the fact of how far a run got
_NOT_RECORDED = "not recorded"
_FIX = "delete it and run 'contrapose align' on the folder again"


@dataclass(frozen=True)
@checked
class Finished:
    """What a run says of itself at its end, as far as it is shown."""

    trained_parameters: _Number
    training_pairs: _Number
    held_out_pairs: _Number


class Fact(NamedTuple):
    """One line of a list of facts."""

    label: str
    value: str


class Line(NamedTuple):
    """A line of the page about a run's settings: its label, their dotted names, and how their values are put."""

    label: str
    names: tuple[str, ...]
    text: str = "{}"


LINES = (
    Line("Batch", ("optimisation.batch_size",), "{} pairs a step"),
    Line(
        "Learning rate",
        ("optimisation.learning_rate", "optimisation.schedule", "optimisation.warmup"),
        "{}, {}, {} steps of warm-up",
    ),
    Line("Precision", ("precision",)),
    Line("Seed", ("seed",)),
)
"""What a list of facts says of settings alone; what else it says is in `facts`."""


@dataclass(frozen=True)
class ShownRun:
    """One alignment run, whole or cut short."""

    folder: Path
    text: str
    """`run.yaml` as it stands."""
    settings: Mapping[str, Any]
    """What `run.yaml` says, of this version or an earlier one."""
    planned: int
    """Steps that the run is to have."""
    metrics: tuple[dict[str, float], ...]
    """One mapping a step, in order."""
    finished: Finished | None
    """What was written at the end; none while unfinished."""

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def method(self) -> str:
        return self.settings["method"]["name"]

    @property
    def link(self) -> str | None:
        """The name of the method's link; None for a method without one."""
        link = self.settings["method"].get("link")
        return link.get("name") if isinstance(link, dict) else None

    def setting(self, name: str) -> str:
        """A setting as it is written on the page, by its dotted name."""
        values: Any = self.settings
        *sections, last = name.split(".")
        for section in sections:
            values = values.get(section)
            if not isinstance(values, dict):
                return _NOT_RECORDED
        # by its name, or by what earlier versions called it
        for key in (last, *(old for old, new in RENAMED.items() if last in new)):
            if values.get(key) is not None:
                return _value(values[key])
        return _NOT_RECORDED

    @property
    def done(self) -> int:
        if self.finished is not None:
            return self.planned
        return int(self.metrics[-1]["step"]) if self.metrics else 0

    @property
    def status(self) -> str:
        if self.finished is not None:
            return f"finished: {count(self.planned)} steps"
        return f"unfinished: {count(self.done)} of {count(self.planned)} steps"

    @property
    def seconds(self) -> float:
        return sum(self.series("seconds")[1])

    def series(self, name: str) -> tuple[list[float], list[float]]:
        """Steps and finite values of one metric."""
        steps = []
        values = []
        for line in self.metrics:
            if name in line and math.isfinite(line[name]):
                steps.append(line["step"])
                values.append(line[name])
        return steps, values

    def levels(self, name: str) -> dict[float, dict[float, float]]:
        """`held_out/<name>@<level>` as {step: {level: value}}."""
        prefix = f"held_out/{name}@"
        levels: dict[float, dict[float, float]] = {}
        for line in self.metrics:
            measured = {float(key.removeprefix(prefix)): line[key] for key in line if key.startswith(prefix)}
            finite = {level: value for level, value in sorted(measured.items()) if math.isfinite(value)}
            if finite:
                levels[line["step"]] = finite
        return levels


def read_run(folder: Path) -> ShownRun:
    """A run, finished or not; raises `UserError` naming the folder or file, and the fix, where it is not readable."""
    run = RunFolder(folder)
    path = folder / RUN_FILE
    settings = run.settings()
    try:
        steps = run.planned
        complete = isinstance(settings["method"]["name"], str) and isinstance(steps, int) and steps in _STEPS
    except (KeyError, TypeError):
        complete = False
    if not complete:
        raise UserError(f"{path}: does not name a method and its steps; {AGAIN}")
    text = path.read_text(encoding="utf-8")
    # a step that was taken twice counts as it went the last time
    by_step = {line["step"]: line for line in run.metrics()}
    metrics = tuple(by_step[step] for step in sorted(by_step))
    return ShownRun(folder, text, settings, steps, metrics, _finished(run))


def _finished(run: RunFolder) -> Finished | None:
    values = run.summary(_FIX)
    if values is None:
        return None
    # further values, such as the duration, are not shown and may differ between versions
    shown = {name: values[name] for name in Finished.__dataclass_fields__ if name in values}
    return runfile.structured(run.path / FINISHED, shown, Finished, _CONVERTER, _FIX)


def facts(run: ShownRun) -> list[Fact]:
    """The settings and sizes that a reader asks for first; the rest stands in `run.yaml`."""
    finished = run.finished
    pairs = run.setting("pairs")
    kind = run.settings.get("adapters", {}).get("lora_kind", {}).get("name")
    adapters = ADAPTER_KINDS.get(kind, ADAPTER_KINDS["lora"]).title
    trained = "the whole denoiser" if run.settings.get("full") else f"{adapters} adapters"
    if run.settings.get("lora_rank"):
        trained += f" of rank {run.setting('lora_rank')}"
    if finished:
        pairs += f" ({count(finished.training_pairs)} for training, {count(finished.held_out_pairs)} held out)"
        trained += f", {count(finished.trained_parameters)} parameters"
    method = [run.method]
    for name, value in run.settings["method"].items():
        if name != "name" and is_set(value):
            method.append(f"{name} {_value(value)}")
    best = read_best(run.folder)
    lines = [
        Fact(STATE, run.status),
        Fact("Method", "; ".join(method)),
        *([Fact("Best step", best.sentence)] if best else []),
        Fact("Model", run.setting("model")),
        Fact("Pairs", pairs),
        Fact("Trained", trained),
    ]
    for line in LINES:
        values = list(map(run.setting, line.names))
        if any(value != _NOT_RECORDED for value in values):
            lines.append(Fact(line.label, line.text.format(*values)))
    if run.metrics:
        mean = f"{run.seconds / max(len(run.series('seconds')[0]), 1):.2g} s a step, held-out measurements included"
        lines.append(Fact("Time", f"{in_words(run.seconds)} ({mean})"))
    weights = sum(path.stat().st_size for path in run.folder.glob("*.safetensors"))
    if weights:
        lines.append(Fact("Weights", size(weights)))
    return lines


def is_set(value: Any) -> bool:
    """Whether a setting says something: not what stands for nothing in a file of settings."""
    return value is not None and value is not False and value not in ("", "none", [], {})


def _value(value: Any) -> str:
    """A setting's value; of one that has settings itself its name, and the others that are set in brackets."""
    if isinstance(value, float):
        return f"{value:g}"
    if not isinstance(value, dict):
        return str(value)
    rest = ", ".join(f"{key} {_value(v)}" for key, v in value.items() if key != "name" and v is not None)
    if "name" in value and rest:
        return f"{value['name']} ({rest})"
    return str(value.get("name", rest))


def distinct_names(runs: Sequence[ShownRun]) -> list[str]:
    """The folders' names, or their paths where two have one name."""
    names = [run.name for run in runs]
    distinct = []
    for run in runs:
        distinct.append(str(run.folder) if names.count(run.name) > 1 else run.name)
    return distinct
