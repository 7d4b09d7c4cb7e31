"""RealAlign (arXiv 2605.19839): real photographs win over spoiled copies of themselves, in two stages.

    stage 1   Diffusion-DRO on the real images alone                                            diffusion_dro.py
    stage 2   L = -E log sigmoid( -(beta / 2) [ (mse_w - mse_l)_theta - (mse_w - mse_l)_stage 1 ] ),   mse to the
              forward noise; winner real, loser spoiled; trainee AND reference begin at stage 1

Published with SD1.5: stage 1 as told in diffusion_dro.py; stage 2 beta 2000, batch 256, learning rate 2.56e-6, 1000
steps, warm-up 125, LoRA rank 4, 512 pairs; an average of the weights and dropped captions in stage 1 alone. With
SD3.5-Medium: beta 100, an average of both stages' weights (.9 every 8 steps), weight decay 1e-4; how many steps stage 2
takes is in no released file.
Differs from the authors' code: photographs are mirrored once, by their seed (`--flip`), winner as well as loser, where
theirs are mirrored each time they are read, each by itself; latents are the autoencoder's mean and not a sample.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from contrapose.core.choices import Space, Weighting
from contrapose.core.group import Composition
from contrapose.core.links import PairLink, Sigmoid
from contrapose.methods.diffusion_dpo import DiffusionDPO
from contrapose.methods.diffusion_dro import DiffusionDRO
from contrapose.methods.method import AlignmentMethod
from contrapose.ranges import Positive, checked

if TYPE_CHECKING:
    from contrapose.core.objective import Objective


@dataclass(frozen=True)
@checked
class RealAlign(AlignmentMethod):
    """Diffusion-DPO on real over spoiled images, from where Diffusion-DRO on the real ones ended."""

    beta: Positive = 2000.0
    """Strength of the pull to stage 1, in the unit of Diffusion-DPO's code (half the mean-per-element error)."""
    link: PairLink = field(default_factory=Sigmoid)
    """How a comparison is scored in stage 2: sigmoid (with label smoothing), ipo or hinge."""
    weighting: Weighting = "none"
    """Loss weight by noise level in stage 2."""
    space: Space | None = None
    """Where errors are measured in stage 2; the model's own prediction space when unset."""
    stage1: DiffusionDRO = field(default_factory=DiffusionDRO)
    """The first stage."""

    @property
    def before(self) -> dict[str, DiffusionDRO]:
        """The run that this one begins at."""
        return {"start": self.stage1}

    @property
    def stage2(self) -> DiffusionDPO:
        """The second stage."""
        return DiffusionDPO(self.beta, self.link, weighting=self.weighting, space=self.space)

    def objective(self) -> Objective:
        return self.stage2.objective()

    def composition(self) -> Composition:
        return self.stage2.composition()
