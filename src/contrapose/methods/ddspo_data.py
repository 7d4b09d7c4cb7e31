"""DDSPO, data-driven (arXiv 2512.23426, version 2): two policies, fitted on winners and on losers, are the targets.

    L = -E log sigmoid( -(beta / 2) [ mse(e*_w, theta) - mse(e*_w, ref) - (mse(e*_l, theta) - mse(e*_l, ref)) ] )
    e*_w = phi_w(x_t^w, t, c),   e*_l = phi_l(x_t^l, t, c);   phi_w and phi_l are the reference after plain fine-tuning

Works on any pairs: real over spoiled, preferred by people, or drawn.

Published with SD1.5 on Pick-a-Pic: fits of LoRA rank 4, learning rate 1e-4, at most 300 steps; then beta 8000, 100
steps, warm-up 100, effective learning rate 5.12e-6; batch 2048 in both.
Differs from the authors' code: the two fits are runs of their own, where theirs share an optimiser and the norm that
gradients are scaled down to; their adapters begin with peft's default weights, ours with Gaussian ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from contrapose.core.choices import Space, Weighting
from contrapose.core.group import Composition
from contrapose.core.guards import PairGuard, Unguarded, guarded
from contrapose.core.links import PairLink, Sigmoid
from contrapose.methods.method import GuardedMethod
from contrapose.methods.sft import SFT
from contrapose.ranges import Positive, checked

if TYPE_CHECKING:
    from contrapose.core.objective import Objective


@dataclass(frozen=True)
@checked
class DataDrivenDDSPO(GuardedMethod):
    """Stepwise contrast of two policies' scores, one fitted on winners and one on losers."""

    beta: Positive = 8000.0
    link: PairLink = field(default_factory=Sigmoid)
    """How a comparison is scored: sigmoid (with label smoothing), ipo or hinge."""
    guard: PairGuard = field(default_factory=Unguarded)
    weighting: Weighting = "none"
    space: Space | None = None

    @property
    def before(self) -> dict[str, SFT]:
        """The two policies whose scores are contrasted."""
        return {"winner": SFT("winner"), "loser": SFT("loser")}

    def objective(self) -> Objective:
        from contrapose.core.objective import Objective, Row, Side

        sides = (
            Side("winner", truth={Row("winner", "winner", "prompt"): 1.0}),
            Side("loser", truth={Row("loser", "loser", "prompt"): 1.0}),
        )
        link = guarded(self.link, self.guard)
        return Objective(sides, link, self.beta, weighting=self.weighting, space=self.space)

    def composition(self) -> Composition:
        return Composition()
