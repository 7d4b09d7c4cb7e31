"""How long a run would take on a card that reaches a share of its peak."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from contrapose.durations import in_words
from contrapose.estimate.estimate import estimate_run
from contrapose.estimate.settings import Setup, Speed
from contrapose.train.stages import stages

_HOUR = 3600.0


@dataclass(frozen=True)
class StageTime:
    """The optimiser steps of one of the runs that a run consists of."""

    folder: str
    """Below the run's own; empty for the run itself."""
    steps: int
    step_flops: int
    hours: float
    """On one card."""


def stage_times(setup: Setup, speed: Speed) -> list[StageTime]:
    """Each stage of a run in its order: steps x FLOPs of a step / (utilisation x peak).

    Counted are the optimiser's steps alone; what draws pairs, reads text, measures and saves comes on top.
    """
    flops_a_second = speed.utilisation * speed.peak(setup.precision)
    times = []
    for stage in stages(setup.run, Path()):
        steps = stage.run.optimisation.train_steps
        flops = estimate_run(replace(setup, run=stage.run)).flops.step
        times.append(StageTime(stage.folder.name, steps, flops, steps * flops / flops_a_second / _HOUR))
    return times


def duration(setup: Setup, speed: Speed, times: Sequence[StageTime]) -> str:
    """All stages' time in one line, with what it takes for granted; over all cards where networks are in shards."""
    of_stages = [f"{time.steps} steps of {time.folder}".removesuffix(" of ") for time in times]
    seconds = sum(time.hours for time in times) * _HOUR / setup.num_processes
    length = in_words(float(f"{seconds:.2g}"))
    cards = "one GPU that reaches"
    uncounted = "drawing, reading text and measuring"
    if setup.num_processes > 1:
        cards = f"{setup.num_processes} GPUs that reach"
        uncounted = "drawing, reading text, measuring and what the GPUs send"
    whose = "an A100's, " if speed.peak_tflops is None else ""
    peak = speed.peak(setup.precision) / 1e12
    return (
        f"about {length} for {' and '.join(of_stages)} on {cards} {speed.utilisation:.0%} of {peak:g} TFLOP/s "
        f"({whose}set by --peak-tflops and --utilisation); {uncounted} not counted"
    )
