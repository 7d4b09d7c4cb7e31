"""InPO (CVPR 2025, arXiv 2503.18454): Diffusion-DPO under the noise from which the model itself would draw each image.

    L = -E log sigmoid( -(beta / 2) [ (mse_w - mse_l)_theta - (mse_w - mse_l)_ref ] ),   mse to each image's own noise
    noise_i = (x_t^i - a(t) x0^i) / s(t),   x_t^i by inversion of DDIM from x0^i to t with theta, without gradient

Inversion takes n steps, each of one more prediction without gradient for every image, and adds eta sigma z to each
state. A pair costs 2 n forwards more than one of Diffusion-DPO.

Published on Pick-a-Pic v2 without ties: n 10, eta 0.1; SD1.5 beta 2000 from a model fitted on winners, SDXL beta 5000
with Adafactor; both full, fp16, 20 % of captions dropped, batch 1024 (1 x 128 accumulated x 8 GPUs), 400 steps, warm-up
200, effective learning rate 1.02e-5 (1e-8 with --scale_lr: times the batch).
Differs from the authors' code: its grid is n steps over the whole way, of which those below t are walked, so that a
state lies up to a step below the time that the network is told, and half of the steps are walked on average; here all n
steps lead to t itself. Its last step asks the scheduler for a level beyond its table where t lies past the grid's end;
here the level is bounded. At t = 0 the noise is the drawn one, where theirs is the data over s(0). Latents are the
autoencoder's mean, and images are mirrored once, by their seed, as with Diffusion-DPO.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from contrapose.core.choices import Space, Weighting
from contrapose.core.group import Composition
from contrapose.core.links import PairLink, Sigmoid
from contrapose.methods.method import RewardMethod
from contrapose.ranges import AtLeast0, Positive, Steps, checked

if TYPE_CHECKING:
    from contrapose.core.objective import Objective


@dataclass(frozen=True)
@checked
class InPO(RewardMethod):
    """Winner over loser, each measured against the noise that inversion finds for it."""

    beta: Positive = 2000.0
    inversion_steps: Steps = 10
    """Steps from an image to its noise, each of one more prediction a sample."""
    inversion_eta: AtLeast0 = 0.1
    """Randomness of each of these steps, as a share of DDPM's; 0 is none."""
    link: PairLink = field(default_factory=Sigmoid)
    """How a comparison is scored: sigmoid (with label smoothing), ipo or hinge."""
    weighting: Weighting = "none"
    space: Space | None = None

    def objective(self) -> Objective:
        from contrapose.core.objective import Objective, Side
        from contrapose.core.walks import Inversion

        walk = Inversion(self.inversion_steps, self.inversion_eta)
        sides = (Side("winner"), Side("loser"))
        return Objective(sides, self.link, self.beta, weighting=self.weighting, space=self.space, walk=walk)

    def composition(self) -> Composition:
        # a draw for each random step
        num_draws = self.inversion_steps if self.inversion_eta else 0
        return Composition(num_draws=num_draws)
