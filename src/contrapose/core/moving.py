"""Frozen policies that follow the trainee: a copy of it every so many steps, or an average of it.

A schedule says how much of its weights such a policy keeps before an optimiser step, as a share from 1 (it stays as it
is) to 0 (it becomes the trainee): w' = share w + (1 - share) w_trainee.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@runtime_checkable
class Following(Protocol):
    """The share that a policy keeps once `step` optimiser steps have been taken, one or more."""

    def __call__(self, step: int) -> float: ...

    @property
    def mixes(self) -> bool:
        """Whether it ever keeps a part of its weights, so that none of its small steps is to be rounded away."""


@dataclass(frozen=True)
class Every:
    """A move every `num_steps` optimiser steps, to the trainee or, with a share `kept`, part of the way.

    Rethinking-DPO's reference (Kang et al. 2025, arXiv 2505.18736) moves part of the way: ref' = (1 - a) ref + a theta.
    """

    num_steps: int
    kept: float = 0.0

    def __call__(self, step: int) -> float:
        return self.kept if step % self.num_steps == 0 else 1.0

    @property
    def mixes(self) -> bool:
        return self.kept > 0


@dataclass(frozen=True)
class Average:
    """An exponential moving average: decay(step) = min(decay, growth max(0, step - delay)), or `decay` throughout.

    DiffusionNFT's old policies are decay .5 growing by .001 a step, and .999 growing by .0075 after 75 steps.
    """

    decay: float
    growth: float | None = None
    delay: int = 0

    def __call__(self, step: int) -> float:
        if self.growth is None:
            return self.decay
        return min(self.decay, self.growth * max(0, step - self.delay))

    @property
    def mixes(self) -> bool:
        return True
