"""D3PO (Yang et al., CVPR 2024, arXiv 2311.13231, yk7333/d3po): every step of the better one of two trajectories.

    L = -E log sigmoid( B [ log clip(R_w) - log clip(R_l) ] ),   R = q_theta(x' | x_t) / q_ref(x' | x_t)

clip keeps a ratio R within 1 +- c. Of a prompt the model draws two trajectories from the same noise, by stochastic
steps of DDIM; a judge prefers one of the final images, and each step of its trajectory is compared with the other's at
the same time. A step is a sample whose truth is the noise that it implies (`core/transitions.py`).

A pair in training costs two predictions of the reference, and of theta two forwards and backwards (four with
guidance), where SPO's steps from one state cost half of that.

Published on SD1.5: 20 steps, eta 1, guidance 5, B .1, c .1, LoRA of rank 4, AdamW, learning rate 3e-5, weight decay
1e-4, 20 prompts a GPU and epoch, an optimiser step for each pair of steps, 400 epochs.
Differs from the authors' code: trajectories begin at the path's last time and not 50 times before it, and their last
step predicts the image, with no chance in it. Pairs of steps are drawn from the latest trajectories in any order, where
theirs go through one trajectory after the other. Tied images are left out; theirs take a step without a gradient.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

from contrapose.core.group import Composition
from contrapose.core.links import Clipped
from contrapose.methods.method import AlignmentMethod
from contrapose.methods.own_steps import StepSampling
from contrapose.ranges import AtLeast0, Positive, Range, checked

if TYPE_CHECKING:
    from contrapose.core.objective import Objective


@dataclass(frozen=True)
@checked
class D3PO(AlignmentMethod):
    """The steps of the better of two trajectories of a prompt over the other's, drawn and judged while it trains."""

    beta: Positive = 0.1
    """Strength of the pull to the reference: what the difference of two logarithms of ratios is multiplied by."""
    clip: Annotated[float, Range(0, 1, low_open=True, high_open=True)] = 0.1
    """How far from 1 a ratio of densities counts."""
    tie_margin: AtLeast0 = 0.0
    """Trajectories whose rewards differ by no more than this are left out."""
    sampling: StepSampling = field(default_factory=StepSampling)

    def __post_init__(self) -> None:
        self.sampling.check_steps()

    def objective(self) -> Objective:
        return self.sampling.objective(Clipped(self.beta, self.clip), one_state=False)

    def composition(self) -> Composition:
        return self.sampling.composition(self.sampling.whole(self.tie_margin))
