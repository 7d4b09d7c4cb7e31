"""A run folder as the report sees it: settings, metrics, and how far it got; a killed run is read as it lies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from contrapose import runfile
from contrapose.errors import UserError
from contrapose.ranges import Range, checked
from contrapose.report.numbers import count, duration, size
from contrapose.runs.folder import AGAIN, RunFolder
from contrapose.runs.names import FINISHED, RUN_FILE

_STEPS = Range(1, 10**9, whole=True)
_Number = Annotated[int, Range(0, 10**15, whole=True)]
_CONVERTER = runfile.converter()


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


@dataclass(frozen=True)
class ShownRun:
    """One alignment run, whole or cut short."""

    folder: Path
    text: str
    """`run.yaml` as it stands."""
    settings: dict[str, Any]
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
    """Raises `UserError` naming the folder or file, and the fix, for what is no run."""
    run, path = RunFolder(folder), folder / RUN_FILE
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
    fix = "delete it and run 'contrapose align' on the folder again"
    values = run.summary(fix)
    if values is None:
        return None
    shown = {name: values[name] for name in Finished.__dataclass_fields__ if name in values}
    return runfile.structured(run.path / FINISHED, shown, Finished, _CONVERTER, fix)


def facts(run: ShownRun) -> list[Fact]:
    """The settings and sizes that a reader asks for first; the rest stands in `run.yaml`."""
    settings, o, finished = run.settings, run.settings["optimisation"], run.finished
    method = {key: value for key, value in settings["method"].items() if key != "name" and value is not None}
    pairs = str(settings.get("pairs", "not recorded"))
    if finished:
        pairs += f" ({count(finished.training_pairs)} for training, {count(finished.held_out_pairs)} held out)"
    found = [
        Fact("State", run.status),
        Fact("Method", "; ".join([run.method, *(f"{key} {_value(value)}" for key, value in method.items())])),
        Fact("Model", str(settings.get("model", "not recorded"))),
        Fact("Pairs", pairs),
        Fact("Trained", _trained(settings, finished)),
        Fact("Batch", f"{_value(o.get('batch_size'))} pairs a step"),
        Fact(
            "Learning rate",
            f"{_value(o.get('learning_rate'))}, {o.get('schedule')}, {o.get('warmup')} steps of warm-up",
        ),
        Fact("Precision", str(settings.get("precision", "not recorded"))),
        Fact("Seed", _value(settings.get("seed"))),
    ]
    if run.metrics:
        each = f"{run.seconds / len(run.metrics):.2g} s a step, held-out measurements included"
        found.append(Fact("Time", f"{duration(run.seconds)} ({each})"))
    weights = sum(path.stat().st_size for path in run.folder.glob("*.safetensors"))
    return [*found, Fact("Weights", size(weights))] if weights else found


def _trained(settings: dict[str, Any], finished: Finished | None) -> str:
    what = "the whole denoiser" if settings.get("full") else f"LoRA adapters of rank {settings.get('lora_rank')}"
    return f"{what}, {count(finished.trained_parameters)} parameters" if finished else what


def _value(value: Any) -> str:
    if isinstance(value, dict):
        rest = ", ".join(f"{key} {_value(v)}" for key, v in value.items() if key != "name" and v is not None)
        return f"{value['name']} ({rest})" if "name" in value and rest else str(value.get("name", rest))
    return f"{value:g}" if isinstance(value, float) else str(value)


def distinct_names(runs: Sequence[ShownRun]) -> list[str]:
    """The folders' names, or their paths where two have one name."""
    names = [run.name for run in runs]
    return [str(run.folder) if names.count(run.name) > 1 else run.name for run in runs]
