"""TDPO (Xian et al. 2025, arXiv 2509.25771): one image under its own prompt and under one that does not fit it.

    L = -E log sigmoid( r(x, c) - r(x, c-) ),   r(x, c) = (beta / 2) [ mse(n, ref(x_t, c)) - mse(n, theta(x_t, c)) ]

n is the forward noise, the same on both sides, as the image x is. Neither a preference nor a second image is needed,
only captions and a way to spoil them (`--degrade`): c- is a record's degraded prompt, and x its winner. The labels of
pairs play no part. Where Diffusion-DPO says which image fits a prompt better, this says which prompt fits an image.

Published with SD1.5 at captions that Gemini 2.0 Flash spoiled by four kinds of edit (content, attributes, relations,
context); of its settings none is known to us, and beta is Diffusion-DPO's.
Differs from the authors' code: written from the paper's abstract; their code has not been read. A summary of the paper
says that what spoiled prompts pull at is clipped there; here it is not. TKTO is tkto.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from contrapose.core.choices import Space, Weighting
from contrapose.core.group import Composition, Pick
from contrapose.core.links import Signed
from contrapose.methods.method import RewardMethod
from contrapose.ranges import Positive, checked

if TYPE_CHECKING:
    from contrapose.core.objective import Objective


@dataclass(frozen=True)
@checked
class TDPO(RewardMethod):
    """An image's own prompt over a degraded one, under which the same image is to be explained worse."""

    beta: Positive = 5000.0
    weighting: Weighting = "none"
    space: Space | None = None

    instead_of_swap: ClassVar[str | None] = "both are one image, under two prompts"

    def objective(self) -> Objective:
        from contrapose.core.objective import Objective, Side

        sides = (Side("winner"), Side("winner", slot="degraded"))
        return Objective(sides, Signed((1.0, -1.0)), self.beta, weighting=self.weighting, space=self.space)

    def composition(self) -> Composition:
        prompts = {"prompt": Pick("own", "prompt"), "degraded": Pick("own", "degraded")}
        return Composition({"winner": Pick("own", "winner")}, prompts)
