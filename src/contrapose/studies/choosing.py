"""Settings that are tried, guidance scales and checkpoints, chosen by what images of dev prompts score."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from contrapose import runfile
from contrapose.errors import UserError
from contrapose.evaluate.evidence import SUMMARY
from contrapose.evaluate.summary import Summary, read_summary
from contrapose.files import write_text
from contrapose.studies.contestants import Contestant, contestants, try_contestant
from contrapose.studies.deciding import Choosing, Deciding, deciding
from contrapose.studies.flags import Flags
from contrapose.studies.settings import CONVERTER, Study
from contrapose.studies.stages import Chosen, checkpoints, dev_evidence, tries_evidence

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


class TryScore(NamedTuple):
    """What one try of a method scores on the dev prompts."""

    values: Flags
    """Those of the options that are tried."""
    score: float


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
    _read: dict[Path, Summary] = field(default_factory=dict, init=False, repr=False, compare=False)

    @cached_property
    def by(self) -> Deciding:
        """The score that decides."""
        first = min(_choosing(self.study).scales)
        return deciding(_choosing(self.study), self._summary(dev_evidence(self.study, f"{first:g}")))

    @cached_property
    def scores(self) -> list[DevScore]:
        """Every candidate's, model by model."""
        scores = []
        choosing = _choosing(self.study)
        for group, members in self._by_group().items():
            for scale in sorted(choosing.scales):
                for checkpoint in checkpoints(self.study, members[0]):
                    names = [member.named(checkpoint) for member in members]
                    folder = dev_evidence(self.study, f"{scale:g}")
                    values = tuple(self._score(name, folder) for name in names)
                    scores.append(DevScore(group, int(checkpoint) if checkpoint else None, scale, values))
        return scores

    def tries(self, method: str) -> list[TryScore]:
        """Every try of a method that is tried."""
        folder = tries_evidence(self.study, method)
        scores = []
        for values in self.study.tries_of(method):
            model = try_contestant(self.study, method, values)
            scores.append(TryScore(values, self._score(model.name, folder)))
        return scores

    def tried(self, method: str) -> Flags:
        if method not in self.study.methods:
            raise UserError(f"{method}: no method of this study (known: {', '.join(self.study.methods)})")
        if not self.study.is_tried(method):
            return Flags()
        by = deciding(_choosing(self.study), self._summary(tries_evidence(self.study, method)))
        # of equal ones the first
        return max(self.tries(method), key=lambda score: by.worth(score.score)).values

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
        return pick(candidates, _choosing(self.study).rule, self.by.higher_is_better)

    def _of(self, group: str) -> list[DevScore]:
        candidates = [score for score in self.scores if score.group == group]
        if not candidates:
            models = ", ".join(dict.fromkeys(score.group for score in self.scores))
            raise UserError(f"{group}: no model of this study (known: {models})")
        return candidates

    def _by_group(self) -> Mapping[str, Sequence[Contestant]]:
        by_group: dict[str, list[Contestant]] = {}
        for contestant in contestants(self.study, self.tried):
            by_group.setdefault(contestant.group, []).append(contestant)
        return by_group

    def _summary(self, folder: Path) -> Summary:
        """What an evaluation of dev prompts found, read once."""
        if folder not in self._read:
            if not (folder / SUMMARY).is_file():
                raise UserError(f"{folder}: the dev prompts are not judged yet, so nothing is chosen; run the study")
            self._read[folder] = read_summary(folder / SUMMARY)
        return self._read[folder]

    def _score(self, model: str, folder: Path) -> float:
        summary = self._summary(folder)
        if model not in summary.models:
            raise UserError(f"{folder}: holds no scores of {model}; run the study again")
        return deciding(_choosing(self.study), summary).score(summary.models[model])


def _choosing(study: Study) -> Choosing:
    if study.choosing is None:
        raise UserError("this study chooses nothing; say under choosing which scales to choose from")
    return study.choosing


@dataclass(frozen=True)
class Placeholders:
    """Choices before anything is measured: the first candidate of each, with which command lines are checked."""

    study: Study

    def best(self, group: str) -> Chosen:
        steps = _choosing(self.study).checkpoints
        return Chosen(f"{min(_choosing(self.study).scales):g}", str(min(steps)) if steps else "")

    def checkpoint(self, group: str, scale: str) -> str:
        return str(min(_choosing(self.study).checkpoints))

    def tried(self, method: str) -> Flags:
        return self.study.tries_of(method)[0]


def write_choices(measured: DevChoices, path: Path) -> bool:
    """Write what was chosen, by which rule, and every try's and candidate's scores on the dev prompts."""
    study = measured.study
    choices: dict[str, dict[str, object]] = {}
    tries: list[dict[str, object]] = []
    for group in dict.fromkeys(score.group for score in measured.scores):
        picked = measured.picked(group)
        choices[group] = {"scale": picked.scale}
        if picked.checkpoint is not None:
            choices[group]["checkpoint"] = picked.checkpoint
        if group in study.methods and study.is_tried(group):
            choices[group]["tried"] = measured.tried(group)
            tries += [{"model": group, "tried": each.values, "score": each.score} for each in measured.tries(group)]
    candidates = []
    for score in measured.scores:
        candidate: dict[str, object] = {"model": score.group, "scale": score.scale}
        if score.checkpoint is not None:
            candidate["checkpoint"] = score.checkpoint
        candidates.append({**candidate, "scores": list(score.scores)})
    values = {
        "rule": CONVERTER.unstructure(_choosing(study)),
        "evaluation": study.deciding,
        "by": measured.by.entries,
        "choices": choices,
        **({"tries": tries} if tries else {}),
        "candidates": candidates,
    }
    return write_text(path, runfile.to_yaml(runfile.stamped(values), CONVERTER))
