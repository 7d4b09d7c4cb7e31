"""What methods of a prompt's own samples share: groups whose scores make advantages, and the policy of a moment ago."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from contrapose.core.group import REWARD, Composition, Pick, ranks
from contrapose.core.measured import Measured
from contrapose.core.moving import Average, Following
from contrapose.errors import UserError
from contrapose.methods.method import MeasuredMethod
from contrapose.methods.own_samples import OwnSamples
from contrapose.ranges import AtLeast0, CountOrNone, Positive, ShareBelow1, checked

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from contrapose.core.choices import Space, Weighting
    from contrapose.core.links import Link
    from contrapose.core.objective import Objective, Side

REFERENCE = "reference"
_OLD = "old"
_LEAST_DEVIATION = 1e-4  # beside the deviation of scores, as in all of the authors' codes


@dataclass(frozen=True)
@checked
class JudgedGroups:
    """Groups of samples that a policy drew for one prompt, and how much better than the others each of them is.

        A_i = clip( (s_i - mean s) / (deviation of s + 1e-4), -limit, limit )

    s are the judges' rewards, or what is stored; mean and deviation are those of the group. Where all s are alike, A is
    0. Raises `UserError` for settings of drawing where groups are stored, and of what is stored where they are drawn.
    """

    sampling: OwnSamples = field(default_factory=OwnSamples)
    """How groups are drawn, and of how many samples they are."""
    stored: bool = False
    """Train on groups that are stored with scores ('pairs draw --samples-per-prompt', 'pairs score'), of which the
    first --samples-per-prompt samples are taken, and draw none."""
    judge: str | None = None
    """With --stored, whose scores say how good a sample is, higher being better; the labels when unset."""
    advantage_limit: Positive = 5.0
    """The largest advantage, in deviations of a group's scores; larger ones count as this one. Of n samples none is
    larger than sqrt(n - 1): of 4 than 1.7, and of 24, with which 5 is published, than 4.8."""

    def __post_init__(self) -> None:
        if not self.stored and self.judge is not None:
            raise UserError(
                f"judge {self.judge}: judges what is stored; set stored, or rollout_judges for what is drawn"
            )
        usual = OwnSamples(self.sampling.samples_per_prompt)
        unused = [name for name, value in vars(self.sampling).items() if value != getattr(usual, name)]
        if self.stored and unused:
            raise UserError(
                f"{', '.join(unused)}: unused with stored groups, as none are drawn; leave one of the two out"
            )

    @property
    def names(self) -> dict[str, Pick]:
        """The samples of a group, the best one first."""
        return ranks(self.sampling.samples_per_prompt)

    def advantages(self, measured: Measured) -> Float[Tensor, "b n"]:
        """A of every side, [b, n]."""
        name = self.judge if self.stored else REWARD
        scores = measured.labels if name is None else measured.scores[name]
        from_mean = scores - scores.mean(1, keepdim=True)
        deviation = from_mean.square().mean(1, keepdim=True).sqrt()
        return (from_mean / (deviation + _LEAST_DEVIATION)).clamp(-self.advantage_limit, self.advantage_limit)

    def shares(self, measured: Measured) -> Float[Tensor, "b n"]:
        """The advantages as shares from 0 to 1, a half being a sample that is as good as the group's mean."""
        return self.advantages(measured) / self.advantage_limit / 2 + 0.5

    def sides(self) -> tuple[Side, ...]:
        """Every sample of a group."""
        from contrapose.core.objective import Side

        return tuple(Side(name) for name in self.names)

    def objective(
        self, link: Link, old: OldPolicy, weighting: Weighting, space: Space | None, **further: Following
    ) -> Objective:
        """Every sample of a group against the old policy, and beside it against the one that the run began with.

        beta = 2 makes a reward the plain difference of two errors. `further` policies follow the trainee as well.
        """
        from contrapose.core.objective import Objective

        return Objective(
            self.sides(),
            link,
            beta=2.0,
            reference=old.policy,
            anchors=(REFERENCE,),
            weighting=weighting,
            space=space,
            moving={**old.moving, **further},
        )

    def composition(self, drawn_by: str) -> Composition:
        """What a group is made of; samples that are drawn are this policy's."""
        if self.stored:
            return Composition(self.names, judge=self.judge, as_drawn=True)
        return Composition(self.names, own_groups=self.sampling.groups(policy=drawn_by))


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


class JudgedMethod(MeasuredMethod):
    """A method of groups that an old policy draws and judges score, and that keeps near the reference."""

    groups: JudgedGroups
    """The samples of a prompt and their advantages."""
    old: OldPolicy
    """How the old policy follows."""
    pull: AtLeast0
    """Weight of the squared distance from the reference."""

    instead_of_swap: ClassVar[str | None] = "scores have a direction of their own"

    def __post_init__(self) -> None:
        """Raise `UserError` for a growth of one's own where the old policy stays."""
        fields: dict[str, Any] = type(self).__dataclass_fields__  # type: ignore[attr-defined]  # of the subclass
        # as the method has it, and as it is where the old policy alone is made
        unset = (None, fields["old"].default_factory().old_growth, OldPolicy.old_growth)
        if self.old.old_decay is None and self.old.old_growth not in unset:
            raise UserError(
                f"old_growth {self.old.old_growth:g}: unused with old_decay None, as the old policy stays where the "
                "run begins; leave one of the two out"
            )

    def composition(self) -> Composition:
        return self.groups.composition(self.old.policy)
