"""What methods of a prompt's own samples share: groups whose scores make advantages, and the policy of a moment ago."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from contrapose.core.group import Composition, ListLength, ranks
from contrapose.core.measured import Measured
from contrapose.core.moving import Average, Following
from contrapose.errors import UserError
from contrapose.ranges import AtLeast0, CountOrNone, Positive, ShareBelow1, checked

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from contrapose.core.objective import Side

REFERENCE = "reference"
_OLD = "old"
_LEAST_DEVIATION = 1e-4  # beside the deviation of scores, as in all of the authors' codes


@dataclass(frozen=True)
@checked
class JudgedGroups:
    """Groups of samples that a policy drew for one prompt, and how much better than the others each of them is.

        A_i = clip( (s_i - mean s) / (deviation of s + 1e-4), -limit, limit )

    s are a judge's scores, mean and deviation those of the group. Where all scores are alike, A is 0.
    """

    judge: str | None = None
    """Whose scores say how good an image is, by their name in the groups, higher being better; the labels when none."""
    num_samples: ListLength = 4
    """Images of a group: the first so many of each prompt, which has to have them."""
    advantage_limit: Positive = 5.0
    """The largest advantage, in deviations of a group's scores; larger ones count as this one."""

    def advantages(self, measured: Measured) -> Float[Tensor, "b n"]:
        """A of every side, [b, n]."""
        scores = measured.labels if self.judge is None else measured.scores[self.judge]
        from_mean = scores - scores.mean(1, keepdim=True)
        deviation = from_mean.square().mean(1, keepdim=True).sqrt()
        return (from_mean / (deviation + _LEAST_DEVIATION)).clamp(-self.advantage_limit, self.advantage_limit)

    def shares(self, measured: Measured) -> Float[Tensor, "b n"]:
        """The advantages as shares from 0 to 1, a half being an image that is as good as the group's mean."""
        return self.advantages(measured) / self.advantage_limit / 2 + 0.5

    def sides(self) -> tuple[Side, ...]:
        """Every sample of the group, the best one first."""
        from contrapose.core.objective import Side

        return tuple(Side(name) for name in ranks(self.num_samples))

    def composition(self) -> Composition:
        """What a group is made of."""
        return Composition(ranks(self.num_samples), judge=self.judge, as_drawn=True)


@dataclass(frozen=True)
@checked
class OldPolicy:
    """The policy that a trainee was a little earlier: an average of it, or the one that the run began with."""

    old_decay: ShareBelow1 | None = 0.3
    """What the old policy, an average of the trainee, keeps of its own at each step, at the most; None leaves it where
    the run begins, which is the policy that drew stored groups."""
    old_growth: AtLeast0 | None = 0.001
    """By how much that share grows at each step from 0 on; None has it in full at once."""
    old_delay: CountOrNone = 0
    """Steps in which the old policy is the trainee of the step before, until its share begins to grow."""

    def __post_init__(self) -> None:
        if self.old_delay and None in (self.old_decay, self.old_growth):
            raise UserError(
                f"old_delay {self.old_delay}: only a share that grows is delayed; set old_decay and old_growth, or "
                "leave it out"
            )

    @property
    def policy(self) -> str:
        """Its name among the policies that are asked."""
        return REFERENCE if self.old_decay is None else _OLD

    @property
    def moving(self) -> dict[str, Following]:
        """How it follows the trainee; nothing where it stays."""
        if self.old_decay is None:
            return {}
        return {_OLD: Average(self.old_decay, self.old_growth, self.old_delay)}
