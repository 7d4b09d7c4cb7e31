"""What every method of this folder is: settings, from which come an objective and what its groups are made of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from contrapose.core.group import Composition

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
