"""TKTO (Xian et al. 2025, arXiv 2509.25771): an image's own prompt is liked, and one that does not fit it disliked.

    L = E 1/2 [ w_l (1 - U( r(x, c) - z )) + w_d (1 - U( z - r(x, c-) )) ],   z = max(0, mean of r)
    r(x, c) = (beta / 2) [ mse(n, ref(x_t, c)) - mse(n, theta(x_t, c)) ],   n the forward noise

The data are TDPO's: captioned images, the winners of pairs, each under its own prompt c and its degraded prompt c-, and
neither a preference nor a second image. The loss is Diffusion-KTO's: each prompt counts by itself, against the baseline
z that the rewards of both follow, so that only one of them may move. Labels of pairs play no part.

Published with SD1.5 at captions that Gemini 2.0 Flash spoiled by four kinds of edit (content, attributes, relations,
context); of its settings none is known to us, and beta and weights are Diffusion-KTO's.
Differs from the authors' code: written from the paper; their code has not been read. z is a running mean of the steps
before, so that micro-batches and processes change nothing; and both prompts of an image are always looked at together,
under one noise.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from contrapose.core.choices import Space, Weighting
from contrapose.core.group import Composition
from contrapose.core.measured import Measured
from contrapose.methods.diffusion_kto import BASELINE, Utility, UtilityOfGain, check_weights, mean_reward
from contrapose.methods.method import RewardMethod
from contrapose.methods.tdpo import TDPO
from contrapose.ranges import AtLeast0, Positive, ShareBelow1, checked

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from contrapose.core.objective import Objective


@dataclass(frozen=True)
class UtilityOfPrompts:
    """Diffusion-KTO's loss with the first side liked and the second disliked, whatever their one image's label."""

    utility: UtilityOfGain

    def __call__(self, measured: Measured) -> Float[Tensor, " b"]:
        liked = measured.labels.new_zeros(measured.labels.shape)
        liked[:, 0] = 1.0
        return self.utility(replace(measured, labels=liked))


@dataclass(frozen=True)
@checked
class TKTO(RewardMethod):
    """An image's own prompt liked and a degraded one disliked, each by itself under Diffusion-KTO's utility."""

    beta: Positive = 2000.0
    """Strength in the unit of Diffusion-DPO's code: twice Diffusion-KTO's B, whose loss has no factor of a half."""
    utility: Utility = "kahneman-tversky"
    """How much a gain in reward is worth: kahneman-tversky (the published one), loss-averse or risk-seeking."""
    like_weight: AtLeast0 = 1.0
    """Weight of own prompts in the loss."""
    dislike_weight: AtLeast0 = 1.0
    """Weight of degraded prompts in the loss."""
    baseline_decay: ShareBelow1 = 0.9
    """What is kept of the baseline at each step: it is the mean reward of about the last 1 / (1 - decay) steps."""
    weighting: Weighting = "none"
    space: Space | None = None

    instead_of_swap: ClassVar[str | None] = TDPO.instead_of_swap

    def __post_init__(self) -> None:
        check_weights(self.like_weight, self.dislike_weight)

    def objective(self) -> Objective:
        from contrapose.core.running import Running

        link = UtilityOfPrompts(UtilityOfGain(self.utility, self.like_weight, self.dislike_weight))
        baseline = Running(mean_reward, self.baseline_decay)
        of_tdpo = TDPO(self.beta, self.weighting, self.space).objective()
        return replace(of_tdpo, link=link, running={BASELINE: baseline})

    def composition(self) -> Composition:
        return TDPO().composition()
