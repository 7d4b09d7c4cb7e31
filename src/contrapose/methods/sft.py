"""Supervised fine-tuning on one side of the pairs: the floor that every preference method should beat.

    L = E mse(eps, e_theta(x_t, t, c))

With `side = loser` it fits what should be avoided, as cPGD's negative module needs (arXiv 2602.18799).

Published as cPGD's two modules for SDXL, one of winners and one of losers, on Pick-a-Pic v2 without ties: full UNet in
fp16, Adafactor, batch 2048 (8 x 256 accumulated x 1 GPU), effective learning rate 2.05e-6 (1e-9 with --scale_lr: times
the batch), warm-up 200, 2000 steps, 20 % of captions dropped.
Differs from the authors' code: latents are the autoencoder's mean, where theirs are a fresh sample each time; images
are mirrored once, by their seed, where theirs are at random each time; a dropped caption is the family's no prompt, on
SDXL zeros, where theirs is the empty text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from contrapose.core.group import Composition, Pick
from contrapose.core.links import Identity
from contrapose.methods.method import AlignmentMethod

if TYPE_CHECKING:
    from contrapose.core.objective import Objective


@dataclass(frozen=True)
class SFT(AlignmentMethod):
    """Plain denoising regression on the winners, or the losers."""

    side: Literal["winner", "loser"] = "winner"
    """Which image of each pair is fitted."""

    instead_of_swap: ClassVar[str | None] = "use --side loser instead"

    def objective(self) -> Objective:
        """beta = 2 makes the reward -mse and the loss the plain mean squared error."""
        from contrapose.core.objective import Objective, Side

        return Objective((Side(self.side),), Identity(), beta=2.0, reference=None)

    def composition(self) -> Composition:
        return Composition({self.side: Pick("own", self.side)})
