"""What every method of this folder is: settings, from which come an objective and what its groups are made of.

A setting of many methods is explained here, and with each of them only where it means something else there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from contrapose.core.choices import Space, Weighting
from contrapose.core.group import Composition
from contrapose.core.guards import PairGuard
from contrapose.ranges import Positive

if TYPE_CHECKING:
    from contrapose.core.objective import Objective
    from contrapose.methods import Method


class AlignmentMethod(ABC):
    """A paper's method; subclasses are frozen dataclasses of its settings."""

    instead_of_swap: ClassVar[str | None] = None
    """What to do instead of exchanging winners and losers, where a method prefers neither to the other."""

    @property
    def before(self) -> Mapping[str, Method]:
        """The runs that are needed first, by what they are to this one: its `start`, or a policy that it asks."""
        return {}

    @abstractmethod
    def objective(self) -> Objective:
        """What is computed."""

    @abstractmethod
    def composition(self) -> Composition:
        """What a group is made of."""


class MeasuredMethod(AlignmentMethod):
    """A method that weighs errors by noise level and may measure them in another space; it has both as settings."""

    weighting: Weighting
    """Loss weight by noise level."""
    space: Space | None
    """Where errors are measured; the model's own prediction space when unset."""


class RewardMethod(MeasuredMethod):
    """A method of rewards against a reference, whose strength is a setting too."""

    beta: Positive
    """Strength of the pull to the reference, in the unit of Diffusion-DPO's code (half the mean-per-element error)."""


class GuardedMethod(RewardMethod):
    """A method of pairs whose losers a guard may spare, which is a setting too."""

    guard: PairGuard
    """What is kept of the loser's gradient: all (none), sdpo or cooling."""
