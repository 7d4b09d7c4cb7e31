"""Who judges the samples that a method draws itself while it trains, and what counts of what they say."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from contrapose.core.group import REWARD
from contrapose.errors import UserError
from contrapose.judges.judge import Jury
from contrapose.judges.weights import parsed_weights, settled_weights
from contrapose.ranges import checked
from contrapose.store.prompts import Prompt
from contrapose.worlds.judges import ImageJudge, check_without_ceiling
from contrapose.worlds.shapes.suite import Shapes


@dataclass(frozen=True)
@checked
class RolloutJudging:
    """The judges of a method's own samples."""

    rollout_judges: tuple[ImageJudge, ...] = ()
    """What scores the samples that the method draws itself: pickscore, aesthetic, self-confidence, ..., or shapes for
    prompts of the shapes world; options are --rollout-judges.0.model and so on."""
    rollout_by: tuple[str, ...] = ()
    """Scores that count, each NAME or NAME:WEIGHT, their sum being the reward: correct:0.5 roughness:-0.1. The first
    score of the judge when unset, where there is one judge."""

    def __post_init__(self) -> None:
        check_without_ceiling(self.rollout_judges, "while a run trains")
        parsed_weights("rollout_by", self.rollout_by)
        if self.rollout_by and not self.rollout_judges:
            raise UserError("rollout_by: nobody judges; set rollout_judges, or leave the setting out")
        if len(self.rollout_judges) > 1 and not self.rollout_by:
            raise UserError(
                "rollout_by: several judges' scores are on scales of their own; say how much each counts, as "
                "pickscore:1 aesthetic:0.5"
            )

    def check(self, prompts: Callable[[], Iterable[Prompt]]) -> None:
        """Raise `UserError` where one of the judges cannot judge one of the prompts that this gives."""
        for judge in self.rollout_judges:
            if isinstance(judge, Shapes):
                judge.check(prompts())

    def weights(self, jury: Jury) -> dict[str, float]:
        """How much each score counts; raises `UserError` for names that the jury does not give, or must not."""
        better = jury.higher_is_better
        if REWARD in better:
            raise UserError(f"rollout_judges: a score is called {REWARD}, as the sum of all is; give it another name")
        if not self.rollout_by:
            first = next(iter(better))
            return {first: 1.0 if better[first] else -1.0}
        weights = settled_weights("rollout_by", parsed_weights("rollout_by", self.rollout_by), better)
        unknown = [name for name in weights if name not in better]
        if unknown:
            raise UserError(f"rollout_by: no judge gives {unknown[0]} (they give {', '.join(better)})")
        return weights
