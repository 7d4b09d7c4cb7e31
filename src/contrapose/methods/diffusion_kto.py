"""Diffusion-KTO (Li et al. 2024, arXiv 2404.04465): likes and dislikes, each image by itself.

    L = E w_y (1 - U(s_y (r - z))),   s_y = 1 for a like and -1 for a dislike,   z = max(0, mean of r)
    r = (beta / 2) [ mse_ref - mse_theta ],   mse to the forward noise

U is the utility of a gain: Kahneman and Tversky's sigmoid(x), which is convex in losses and concave in gains; log
sigmoid(x), averse to loss; or -log sigmoid(-x), seeking risk. An image whose label y is a share counts as a like and as
a dislike by its shares. Pairs are a like and a dislike each; groups of more go by their labels.

Published with SD1.5 on Pick-a-Pic, where an image that won at least once is liked: B 1000 (no factor of a half, so beta
is 2000 here), weights 1, four fifths of what is drawn likes; full UNet in fp16, AdamW of 8 bits, batch 2048 (2 x 256
accumulated x 4 GPUs), learning rate 1e-7, warm-up 200, 20000 steps at most, 20 % of captions dropped. Sampling: 50
steps at a guidance scale of 7.
Differs from the authors' code: their z is the mean over the micro-batches of all GPUs, 8 images; here it is a running
mean of the steps before, so that micro-batches and processes change nothing. Likes and dislikes are drawn without
replacement in an epoch, theirs with. Their latents are samples of the autoencoder's posterior, and images are mirrored
each time they are read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from contrapose.core.choices import Space, Weighting
from contrapose.core.group import LONE, Apart, Composition, Pick
from contrapose.core.links import log_sigmoid
from contrapose.core.measured import Measured
from contrapose.errors import UserError
from contrapose.methods.method import RewardMethod
from contrapose.ranges import AtLeast0, Positive, Share, ShareBelow1, checked

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from contrapose.core.objective import Objective

Utility = Literal["kahneman-tversky", "loss-averse", "risk-seeking"]
BASELINE = "baseline"
"""The running number that gains are counted from."""


@dataclass(frozen=True)
class UtilityOfGain:
    """loss = mean over sides of p w_l (1 - U(r - z)) + (1 - p) w_d (1 - U(z - r)).

    p is a side's label and z = max(0, the running baseline).
    """

    utility: Utility
    like_weight: float
    dislike_weight: float

    def __call__(self, measured: Measured) -> Float[Tensor, " b"]:
        liked = measured.labels
        gain = measured.rewards - max(measured.running[BASELINE], 0.0)
        of_like = self.like_weight * (1 - self._utility(gain))
        of_dislike = self.dislike_weight * (1 - self._utility(-gain))
        return (liked * of_like + (1 - liked) * of_dislike).mean(1)

    def _utility(self, gain: Float[Tensor, "b n"]) -> Float[Tensor, "b n"]:
        if self.utility == "loss-averse":
            return log_sigmoid(gain)
        if self.utility == "risk-seeking":
            return -log_sigmoid(-gain)
        return gain.sigmoid()


def mean_reward(measured: Measured) -> Float[Tensor, " b"]:
    """What the baseline follows."""
    return measured.rewards.mean(1)


def check_weights(like: float, dislike: float) -> None:
    """Raise `UserError` where neither likes nor dislikes count."""
    if not like and not dislike:
        raise UserError("like_weight 0 and dislike_weight 0 leave nothing to learn; raise one of them")


@dataclass(frozen=True)
@checked
class DiffusionKTO(RewardMethod):
    """Likes and dislikes without pairs, under a utility of how far each is from what is usual."""

    beta: Positive = 2000.0
    """Strength in the unit of Diffusion-DPO's code: twice the paper's B, whose loss has no factor of a half."""
    utility: Utility = "kahneman-tversky"
    """How much a gain in reward is worth: kahneman-tversky (the published one), loss-averse or risk-seeking."""
    like_weight: AtLeast0 = 1.0
    """Weight of likes in the loss."""
    dislike_weight: AtLeast0 = 1.0
    """Weight of dislikes in the loss."""
    like_share: Share | None = 0.8
    """Share of likes in what is drawn; with None, and where all are of one kind, they are drawn as they come."""
    baseline_decay: ShareBelow1 = 0.9
    """What is kept of the baseline at each step: it is the mean reward of about the last 1 / (1 - decay) steps."""
    weighting: Weighting = "none"
    space: Space | None = None

    def __post_init__(self) -> None:
        check_weights(self.like_weight, self.dislike_weight)

    def objective(self) -> Objective:
        from contrapose.core.objective import Objective, Side
        from contrapose.core.running import Running

        link = UtilityOfGain(self.utility, self.like_weight, self.dislike_weight)
        baseline = Running(mean_reward, self.baseline_decay)
        return Objective(
            (Side(LONE),), link, self.beta, weighting=self.weighting, space=self.space, running={BASELINE: baseline}
        )

    def composition(self) -> Composition:
        return Composition({LONE: Pick("own", LONE)}, apart=Apart(self.like_share))
