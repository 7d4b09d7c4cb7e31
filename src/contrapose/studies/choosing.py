"""Each model's guidance scale and checkpoint, chosen by what images of dev prompts score, and told with all scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from contrapose import runfile
from contrapose.errors import UserError
from contrapose.evaluate.evidence import SUMMARY
from contrapose.evaluate.summary import Summary, read_summary
from contrapose.files import write_text
from contrapose.studies.contestants import Contestant, contestants
from contrapose.studies.settings import CONVERTER, Choosing, Study
from contrapose.studies.stages import Chosen, checkpoints, dev_evidence

CHOICES = "choices.yaml"


class Rule(NamedTuple):
    """What counts of a candidate's scores by training seed."""

    of: Callable[[Sequence[float]], float]
    words: str
    """What is chosen by it, for the page."""


RULES = {
    "mean": Rule(fmean, "the best mean over training seeds"),
    "lowest": Rule(min, "the best of the lowest scores over training seeds"),
}


class DevScore(NamedTuple):
    """What one candidate scores on the dev prompts, by training seed; the base has one score."""

    group: str
    checkpoint: int | None
    """A kept step; None is the end of the run."""
    scale: float
    scores: tuple[float, ...]


class Picked(NamedTuple):
    """What a rule takes."""

    scale: float
    checkpoint: int | None

    @property
    def typed(self) -> Chosen:
        return Chosen(f"{self.scale:g}", "" if self.checkpoint is None else str(self.checkpoint))


def pick(candidates: Sequence[DevScore], rule: str, higher_is_better: bool) -> Picked:
    """The best candidate by the rule; ties go to the smaller scale, then to fewer steps, the run's end being last.

    Raises `ValueError` where there are none.
    """
    sign = 1.0 if higher_is_better else -1.0

    def order(candidate: DevScore) -> tuple[float, float, float]:
        # of scores that are the smaller the better, the worst of the seeds is the largest
        value = RULES[rule].of([sign * score for score in candidate.scores])
        steps = float("inf") if candidate.checkpoint is None else candidate.checkpoint
        return -value, candidate.scale, steps

    best = min(candidates, key=order)
    return Picked(best.scale, best.checkpoint)


@dataclass(frozen=True)
class DevChoices:
    """The choices of a study whose dev prompts are judged; asking raises `UserError` where they are not."""

    study: Study

    @cached_property
    def metric(self) -> tuple[str, bool]:
        """The metric that decides, and whether larger values are the better ones."""
        return deciding_metric(self.study, next(iter(self._summaries.values())))

    @cached_property
    def scores(self) -> list[DevScore]:
        """Every candidate's, model by model."""
        scores = []
        choosing = _choosing(self.study)
        for group, members in _by_group(self.study).items():
            for scale in sorted(choosing.scales):
                for checkpoint in checkpoints(self.study, members[0]):
                    names = [member.named(checkpoint) for member in members]
                    values = tuple(self._score(name, scale) for name in names)
                    scores.append(DevScore(group, int(checkpoint) if checkpoint else None, scale, values))
        return scores

    def best(self, group: str) -> Chosen:
        return self.picked(group).typed

    def checkpoint(self, group: str, scale: str) -> str:
        candidates = [score for score in self._of(group) if f"{score.scale:g}" == scale]
        if not candidates:
            raise UserError(f"scale {scale}: was not among those to choose from")
        return self._pick(candidates).typed.checkpoint

    def picked(self, group: str) -> Picked:
        """What was chosen for a model."""
        return self._pick(self._of(group))

    def _pick(self, candidates: Sequence[DevScore]) -> Picked:
        return pick(candidates, _choosing(self.study).rule, self.metric[1])

    def _of(self, group: str) -> list[DevScore]:
        candidates = [score for score in self.scores if score.group == group]
        if not candidates:
            models = ", ".join(dict.fromkeys(score.group for score in self.scores))
            raise UserError(f"{group}: no model of this study (known: {models})")
        return candidates

    @cached_property
    def _summaries(self) -> Mapping[float, Summary]:
        summaries = {}
        for scale in _choosing(self.study).scales:
            folder = dev_evidence(self.study, f"{scale:g}")
            if not (folder / SUMMARY).is_file():
                raise UserError(f"{folder}: the dev prompts are not judged yet, so nothing is chosen; run the study")
            summaries[scale] = read_summary(folder / SUMMARY)
        return summaries

    def _score(self, model: str, scale: float) -> float:
        models = self._summaries[scale].models
        if model not in models:
            folder = dev_evidence(self.study, f"{scale:g}")
            raise UserError(f"{folder}: holds no scores of {model}; run the study again")
        return models[model].metrics[self.metric[0]].overall.value


def deciding_metric(study: Study, summary: Summary) -> tuple[str, bool]:
    """The metric that decides, and whether larger values are the better ones; `UserError` for one that is not there."""
    metric = _choosing(study).metric or next(iter(summary.metrics))
    if metric not in summary.metrics:
        raise UserError(f"choosing: metric {metric} was not measured (known: {', '.join(summary.metrics)})")
    higher_is_better = summary.metrics[metric].higher_is_better
    if higher_is_better is None:
        raise UserError(f"choosing: metric {metric} has no better direction; choose by another")
    return metric, higher_is_better


def _choosing(study: Study) -> Choosing:
    if study.choosing is None:
        raise UserError("this study chooses nothing; say under choosing which scales to choose from")
    return study.choosing


def _by_group(study: Study) -> Mapping[str, Sequence[Contestant]]:
    by_group: dict[str, list[Contestant]] = {}
    for contestant in contestants(study):
        by_group.setdefault(contestant.group, []).append(contestant)
    return by_group


@dataclass(frozen=True)
class Placeholders:
    """Choices before anything is measured: the first candidate of each, with which command lines are checked."""

    study: Study

    def best(self, group: str) -> Chosen:
        steps = _choosing(self.study).checkpoints
        return Chosen(f"{min(_choosing(self.study).scales):g}", str(min(steps)) if steps else "")

    def checkpoint(self, group: str, scale: str) -> str:
        return str(min(_choosing(self.study).checkpoints))


def write_choices(measured: DevChoices, path: Path) -> bool:
    """Write what was chosen, by which rule, and every candidate's scores on the dev prompts."""
    study = measured.study
    choices: dict[str, dict[str, object]] = {}
    for group in dict.fromkeys(score.group for score in measured.scores):
        picked = measured.picked(group)
        choices[group] = {"scale": picked.scale}
        if picked.checkpoint is not None:
            choices[group]["checkpoint"] = picked.checkpoint
    candidates = []
    for score in measured.scores:
        candidate: dict[str, object] = {"model": score.group, "scale": score.scale}
        if score.checkpoint is not None:
            candidate["checkpoint"] = score.checkpoint
        candidates.append({**candidate, "scores": list(score.scores)})
    values = {
        "rule": CONVERTER.unstructure(_choosing(study)),
        "evaluation": study.deciding,
        "metric": measured.metric[0],
        "choices": choices,
        "candidates": candidates,
    }
    return write_text(path, runfile.to_yaml(runfile.stamped(values), CONVERTER))
