"""Online Diffusion-DPO: the best and the worst of the model's own samples of a prompt, by a judge, as it trains.

    L = -E log sigmoid( -(beta / 2) [ (mse_w - mse_l)_theta - (mse_w - mse_l)_ref ] ),   mse to the forward noise

w and l are the best and the worst of n samples that theta itself drew of a prompt a few steps ago, by the reward of a
judge; prompts whose best and worst lie no farther apart than a margin are left out. Offline, on samples of the model
that training begins with, this is `pairs draw`, `pairs score`, `pairs label` and `diffusion-dpo`; online the samples
follow the model, so that its newest mistakes are compared (Guo et al. 2024, arXiv 2402.04792, for language models).
With the model itself for a judge, as `self-confidence`, there is no label and no other network.

Published as Flow-Factory's trainer `dpo`, after Flow-GRPO's comparison (arXiv 2505.05470), with SD3.5-Medium at 512
pixels: beta 100, best and worst of 4 samples of each of 48 prompts a step, by PickScore, drawn in 40 steps without
guidance; LoRA rank 32, learning rate 1e-5 (1e-4 collapses), weight decay 1e-4, logit-normal times without a shift, an
average of the weights (.9975 a step). For the forward noise of UNets none is published; beta is then Diffusion-DPO's.
Differs from the authors' code: equal samples are left out, and theirs takes no time beyond .99 of the noise. In
Flow-GRPO's online variant the reference becomes the trainee every 40 steps and draws the samples (24 a prompt, at a
guidance of 4.5); the first half of that is `--reference-decay 0 --reference-every 40`. Guo et al. compare two samples.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from contrapose.core.choices import Space, Weighting
from contrapose.core.group import Composition
from contrapose.core.guards import PairGuard, Unguarded, guarded
from contrapose.core.links import PairLink, Sigmoid
from contrapose.methods.method import GuardedMethod
from contrapose.methods.own_samples import OwnSamples
from contrapose.ranges import AtLeast0, Positive, checked

if TYPE_CHECKING:
    from contrapose.core.objective import Objective


@dataclass(frozen=True)
@checked
class OnlineDPO(GuardedMethod):
    """Best over worst of the model's own samples, drawn and judged while it trains."""

    beta: Positive = 5000.0
    link: PairLink = field(default_factory=Sigmoid)
    """How a comparison is scored: sigmoid (with label smoothing), ipo or hinge."""
    guard: PairGuard = field(default_factory=Unguarded)
    weighting: Weighting = "none"
    space: Space | None = None
    tie_margin: AtLeast0 = 0.0
    """Prompts whose best and worst sample's rewards differ by no more than this are left out."""
    sampling: OwnSamples = field(default_factory=OwnSamples)

    def objective(self) -> Objective:
        from contrapose.core.objective import Objective, Side

        sides = (Side("winner"), Side("loser"))
        link = guarded(self.link, self.guard)
        return Objective(sides, link, self.beta, weighting=self.weighting, space=self.space)

    def composition(self) -> Composition:
        return Composition(own_groups=self.sampling.groups(self.tie_margin))
