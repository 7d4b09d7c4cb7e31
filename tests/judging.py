"""Judges for tests: what a function says of one image and its GenEval line, as a judge of batches; and weights."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL.Image import Image

from contrapose.evaluate.images import metadata_of
from contrapose.evaluate.suites import Unjudged
from contrapose.judges.judge import Marks
from contrapose.store.prompts import Prompt


class Measure(NamedTuple):
    """One image's value of one metric."""

    metric: str
    value: float
    reason: str | None = None


class PerImage:
    """A judge by a function of RGB pixels [h, w, 3] and a line's JSON object."""

    name = "per-image"
    version = "1"

    def __init__(
        self,
        measure: Callable[[np.ndarray, dict[str, Any]], Sequence[Measure]],
        higher_is_better: Mapping[str, bool] | None = None,
    ) -> None:
        self.measure = measure
        self.higher_is_better = dict(higher_is_better or {})

    def __call__(self, images: Sequence[Image], prompts: Sequence[Prompt]) -> dict[str, Marks]:
        marks: dict[str, list[Measure]] = {}
        for image, prompt in zip(images, prompts, strict=True):
            for measure in self.measure(np.asarray(image), metadata_of(prompt)):
                marks.setdefault(measure.metric, []).append(measure)
        return {
            metric: Marks(np.array([one.value for one in ones]), [one.reason for one in ones])
            for metric, ones in marks.items()
        }


def convert(*arguments: str) -> None:
    """`python -c CODE ARGUMENTS`, which converts weights, in this process: one of its own would load torch anew."""
    script, code, *_ = arguments
    assert script == "-c"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [script, *arguments[2:]])
        exec(code, {"__name__": "__main__"})


def as_prompt(line: Mapping[str, Any]) -> Prompt:
    """A GenEval line as a prompt."""
    return Prompt(line["prompt"], {name: value for name, value in line.items() if name != "prompt"})


def as_prompts(lines: Sequence[Mapping[str, Any]]) -> list[Prompt]:
    return [as_prompt(line) for line in lines]


@dataclass(frozen=True)
class OfJudge(Unjudged):
    """A suite without bounds whose judge is there already."""

    judge: PerImage

    def load(self, device: str) -> PerImage:
        return self.judge
