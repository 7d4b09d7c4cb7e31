"""What a study chooses on its dev prompts: among what, and by which score of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from contrapose.core.guidance import FreeScale
from contrapose.errors import UserError
from contrapose.evaluate.summary import ModelScores, Summary
from contrapose.judges.weights import parsed_weights
from contrapose.ranges import Count, checked
from contrapose.studies.flags import NAME, OF_ALIGN, Flags

OF_CHECKPOINTS = ("save-every", "keep")
"""What the study sets of align where checkpoints are chosen: every step to choose from is kept."""


@dataclass(frozen=True)
@checked
class Choosing:
    """How methods' settings, and each model's own guidance scale and checkpoint, are chosen on the dev prompts."""

    scales: tuple[FreeScale, ...]
    """Guidance scales to choose from."""
    checkpoints: tuple[Count, ...] = ()
    """Kept steps to choose from; the end of each run when empty."""
    tries: Flags = field(default_factory=Flags)
    """Options of `contrapose align`, each with a list of values; of several options every combination is tried. Each
    method that is shown, does not set the option itself and has no `tries` of its own is trained so with the first
    training seed, and with the other seeds as it was best. Ties go to the earlier value."""
    tried_at: FreeScale | None = None
    """Guidance scale at which tries are compared; the last of the study's `scales` when unset."""
    evaluation: str = ""
    """The evaluation that decides; the first one when empty."""
    by: tuple[str, ...] = ()
    """Its metrics that decide, each NAME or NAME:WEIGHT, their sum being what counts: correct:1 roughness:-0.25. A name
    alone counts once in its better direction. The evaluation's first metric when empty."""
    rule: Literal["mean", "lowest"] = "mean"
    """What counts of a method's training seeds: their mean, or the worst of them. Ties go to the smaller scale, and
    then to fewer steps."""

    def __post_init__(self) -> None:
        for name in ("scales", "checkpoints"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise UserError(f"{name}: a value is named twice")
        if not self.scales:
            raise UserError("scales: name at least one to choose from")
        parsed_weights("by", self.by)
        self.check_tries("tries", self.tries)

    def check_tries(self, where: str, tries: Flags) -> None:
        """Raise `UserError` for options that cannot be tried, of the study's or of a method's own."""
        tries.check_free(where, (*OF_ALIGN, *(OF_CHECKPOINTS if self.checkpoints else ())))
        for name, values in tries.values.items():
            if not isinstance(values, list) or not values:
                raise UserError(f"{where}: {name}: name the values that are tried in a list, one at least")
            for value in values:
                if isinstance(value, bool):
                    raise UserError(f"{where}: {name}: yes and no are not tried; make them two methods")
                if isinstance(value, str) and not NAME.fullmatch(value):
                    raise UserError(
                        f"{where}: {name}: {value!r} can be no part of a run's name; take letters and digits"
                    )
            if len({*map(str, values)}) < len(values) or len(set(values)) < len(values):
                raise UserError(f"{where}: {name}: a value is named twice")


class Deciding(NamedTuple):
    """The score by which a study chooses: a weighted sum of metrics of one evaluation."""

    entries: tuple[str, ...]
    """The metrics as they are written, NAME or NAME:WEIGHT."""
    weights: Mapping[str, float]
    higher_is_better: bool

    def score(self, scores: ModelScores) -> float:
        """A model's."""
        return sum(weight * scores.metrics[name].overall.value for name, weight in self.weights.items())

    def worth(self, score: float) -> float:
        """The score, of which more is better."""
        return score if self.higher_is_better else -score


def deciding(choosing: Choosing, summary: Summary) -> Deciding:
    """The score that decides; `UserError` for metrics that were not measured or do not say which direction is better.

    Where all are named without weights, and of each less is better, the smaller sum is the better one.
    """
    entries = choosing.by or (next(iter(summary.metrics)),)
    weights = parsed_weights("choosing: by", entries)
    settled: dict[str, float] = {}
    for name, weight in weights.items():
        if name not in summary.metrics:
            raise UserError(f"choosing: by: {name} was not measured (known: {', '.join(summary.metrics)})")
        is_better_higher = summary.metrics[name].higher_is_better
        if weight is None and is_better_higher is None:
            raise UserError(f"choosing: by: {name} has no better direction; give it a weight, such as {name}:-1")
        usual = 1.0 if is_better_higher else -1.0
        settled[name] = usual if weight is None else weight
    if not any(weight is not None for weight in weights.values()) and max(settled.values()) < 0:
        return Deciding(entries, dict.fromkeys(weights, 1.0), higher_is_better=False)
    return Deciding(entries, settled, higher_is_better=True)
