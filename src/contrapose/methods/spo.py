"""SPO, step-aware preference optimisation (Liang et al., CVPR 2025, arXiv 2406.04314, github.com/RockeyCoss/SPO).

    L = -E log sigmoid( B [ log clip(R(x'_w)) - log clip(R(x'_l)) ] ),   R(x') = q_theta(x' | x_t) / q_ref(x' | x_t)

clip keeps a ratio R within 1 +- c. The model draws by stochastic steps of DDIM, with k candidates x' for each from one
x_t; a judge tells the best of them, w, from the worst, l, and any one goes on. A pair counts where both lie far enough
apart. As w and l are steps from one state, what is compared is not where they came from. A step is a sample whose truth
is the noise that it implies (`core/transitions.py`), and the two of them are one prediction.

A candidate costs a prediction (two with guidance), decoding, and a judgement; a pair in training costs a prediction of
the reference, and of theta a forward and a backward (two of each with guidance).

Published on SD1.5, 4,000 prompts, 10 epochs: k 4, 20 steps, eta 1, guidance 5, candidates from the fifth step on, B 10,
c .1, LoRA of rank 4, AdamW, learning rate 6e-5, weight decay 1e-4, draws of 10 prompts a GPU and batches of 10 of their
pairs. A pair counts where the softmax of both scores differs by more than .3, which for scores on PickScore's scale is
a difference above 2 atanh(.3) = .62. SDXL: k 2, .4, rank 64, learning rate 1e-5, batch 2 x 2; there each candidate goes
on for three more steps before it is judged, and all of its steps are compared, which is not here.
Differs from the authors' code: the judge is any judge of images, of the data that the model predicts in each candidate,
as TailorPO has it. Theirs is PickScore trained anew on the noisy predictions of each time, with weights of its own,
which are not loaded here. Trajectories begin at the path's last time and not 50 times before it, and their last step
predicts the image, so that it has no candidates.
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
class SPO(AlignmentMethod):
    """Best over worst of several candidates for one step, drawn and judged while it trains."""

    beta: Positive = 10.0
    """Strength of the pull to the reference: what the difference of two logarithms of ratios is multiplied by."""
    clip: Annotated[float, Range(0, 1, low_open=True, high_open=True)] = 0.1
    """How far from 1 a ratio of densities counts."""
    candidates: Annotated[int, Range(2, 100, integer=True)] = 4
    """Candidates that are drawn and judged for each step."""
    first_fork: CountOrNone = 4
    """Steps at the beginning of a trajectory that have a single candidate, since little is to be seen yet."""
    tie_margin: AtLeast0 = 0.62
    """Steps whose best and worst candidate's rewards differ by no more than this are left out; the usual one is
    published, for scores on PickScore's scale."""
    sampling: StepSampling = field(default_factory=StepSampling)

    def __post_init__(self) -> None:
        self.sampling.check_steps(self.first_fork)

    def objective(self) -> Objective:
        return self.sampling.objective(Clipped(self.beta, self.clip), one_state=True)

    def composition(self) -> Composition:
        return self.sampling.composition(self.sampling.forks(self.candidates, self.first_fork, self.tie_margin))
