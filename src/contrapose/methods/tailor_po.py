"""TailorPO (Ren et al., ICLR 2025, arXiv 2502.01667): steps from one state, ranked by what they are seen to lead to.

    L = -E log sigmoid( B [ log R(x'_w) - log R(x'_l) ] ),   R(x') = q_theta(x' | x_t) / q_ref(x' | x_t)

From x_t the model draws x' twice. A judge looks at the data that the model predicts in either, decoded, and the better
one wins: a reward of the step itself, where D3PO takes the final image's for all steps of its trajectory. As both are
steps from one state, gradients of winner and loser do not point the same way, which two trajectories' may.

No settings are known here; those below are SPO's and D3PO's, whose samplers it has, but for the clip, which it lacks.
Differs from the authors' code: it was not at hand. Any one of the candidates goes on, as in SPO. Its variant with
guidance, which moves the winner along the gradient of a differentiable judge, is not here: no judge here has one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

from contrapose.core.group import Composition
from contrapose.core.links import Clipped
from contrapose.methods.method import AlignmentMethod
from contrapose.methods.own_steps import StepSampling
from contrapose.ranges import AtLeast0, CountOrNone, Positive, Range, checked

if TYPE_CHECKING:
    from contrapose.core.objective import Objective


@dataclass(frozen=True)
@checked
class TailorPO(AlignmentMethod):
    """The better of two candidates for one step over the other, drawn and judged while it trains."""

    beta: Positive = 10.0
    """Strength of the pull to the reference: what the difference of two logarithms of ratios is multiplied by."""
    candidates: Annotated[int, Range(2, 100, integer=True)] = 2
    """Candidates that are drawn and judged for each step; of more than two, the best and the worst are compared."""
    first_fork: CountOrNone = 0
    """Steps at the beginning of a trajectory that have a single candidate."""
    tie_margin: AtLeast0 = 0.0
    """Steps whose best and worst candidate's rewards differ by no more than this are left out."""
    sampling: StepSampling = field(default_factory=StepSampling)

    def __post_init__(self) -> None:
        self.sampling.check_steps(self.first_fork)

    def objective(self) -> Objective:
        return self.sampling.objective(Clipped(self.beta, clip=None), one_state=True)

    def composition(self) -> Composition:
        return self.sampling.composition(self.sampling.forks(self.candidates, self.first_fork, self.tie_margin))
