"""DDSPO, training-free (arXiv 2512.23426, Eq. 6 and 7): contrast the reference's own scores on two prompts.

    L = -E log sigmoid( -(beta / 2) [ mse(e*_w, theta) - mse(e*_w, ref) - (mse(e*_l, theta) - mse(e*_l, ref)) ] )
    e*_w = e_ref(x_t^w, t, c),   e*_l = e_ref(x_t^l, t, c-);   theta and ref see c on both sides

At theta = ref the gradient comes from the loser alone and points along e_ref(x^l, c) - e_ref(x^l, c-), the direction of
classifier-free guidance; the winner term is an anchor.

Published with SD1.4/1.5: beta 16000, batch 2048, 200 steps, warm-up 100, effective learning rate 5.12e-6, full UNet;
SDXL the same with linear weights and 500 steps; SANA and SD3 beta 2000, LoRA rank 128, effective learning rate 8.2e-5.
Options that no published script switches on: noise of each side's own (`noise = own`); random conditioning, which puts
c and c- of no relation to the images in their place, by a chance at noise level l, 1 / (1 + exp(-k (l - 0.7))) with
k = 20, or exp(-k (1 - l)), or 1; densities of time (`time_density`), linear and sigmoid.
Differs from the authors' code: 3 reference predictions a pair instead of 4 (the winner's own target is its reference).
Its noise level is t / T where ours is t / (T - 1). Random conditioning takes the other pairs' prompts where no file of
further ones is named, and a held-out pair keeps its own. Densities are continuous ones, rounded down to its T times.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from contrapose.core.choices import RandomCourse, Space, Weighting
from contrapose.core.group import Composition, Pick, RandomPrompts
from contrapose.core.guards import PairGuard, Unguarded, guarded
from contrapose.core.links import PairLink, Sigmoid
from contrapose.errors import UserError
from contrapose.methods.method import GuardedMethod
from contrapose.ranges import Positive, check_unused, checked

if TYPE_CHECKING:
    from contrapose.core.objective import Objective

Losers = Literal["paired", "not-paired", "random-positive"]

# The loser's sample, and the degraded prompt.
_LOSERS: dict[Losers, tuple[Pick, Pick]] = {
    "paired": (Pick("own", "loser"), Pick("own", "degraded")),
    "not-paired": (Pick("other", "winner"), Pick("own", "degraded")),
    "random-positive": (Pick("other", "winner"), Pick("other", "prompt")),
}


@dataclass(frozen=True)
@checked
class DDSPO(GuardedMethod):
    """Stepwise contrast of the reference's score on a prompt and on its degraded prompt."""

    beta: Positive = 16000.0
    losers: Losers = "paired"
    """What stands on the loser's side: the pair's own loser (paired), another record's winner (not-paired), or that
    winner with its own prompt as c- (random-positive); the last two need no loser images."""
    link: PairLink = field(default_factory=Sigmoid)
    """How a comparison is scored: sigmoid (with label smoothing), ipo or hinge."""
    guard: PairGuard = field(default_factory=Unguarded)
    weighting: Weighting = "none"
    """Loss weight by noise level: linear t / (T - 1) is the published choice for SDXL."""
    space: Space | None = None
    noise: Literal["shared", "own"] = "shared"
    """Whether winner and loser are looked at under one noise (shared, as published) or each under its own."""
    random_conditioning: RandomCourse | None = None
    """Chance by noise level with which a pair is looked at under prompts of no relation to it: sigmoid, exponential or
    always; never when unset."""
    random_rate: Positive = 20.0
    """How steeply that chance rises towards the noise."""
    random_prompts: Path | None = None
    """File of the prompts for it, a .jsonl or .json of `prompt` and `degraded_prompts` (or `neg_prompts`), a list each;
    the other pairs' prompts when unset."""

    def __post_init__(self) -> None:
        if self.random_prompts is not None and self.random_conditioning is None:
            raise UserError("random_prompts is unused without random_conditioning; set both, or neither")
        if self.random_conditioning in (None, "always"):
            rising = "random_conditioning that rises towards the noise, sigmoid or exponential"
            check_unused(self, ("random_rate",), f"is of a {rising}")
        if self.random_conditioning is not None and self.losers == "random-positive":
            raise UserError(
                "random_conditioning: with losers random-positive the degraded prompt is the other winner's own, of "
                "which a random pair of prompts has none; take paired or not-paired"
            )

    def objective(self) -> Objective:
        from contrapose.core.objective import Objective, Row, Side

        sides = (
            Side("winner", truth={Row("reference", "winner", "prompt"): 1.0}),
            Side("loser", truth={Row("reference", "loser", "degraded"): 1.0}),
        )
        link = guarded(self.link, self.guard)
        return Objective(sides, link, self.beta, weighting=self.weighting, space=self.space)

    def composition(self) -> Composition:
        loser, degraded = _LOSERS[self.losers]
        return Composition(
            samples={"winner": Pick("own", "winner"), "loser": loser},
            prompts={"prompt": Pick("own", "prompt"), "degraded": degraded},
            own_noise=self.noise == "own",
            random_prompts=self._random_prompts,
            needs_labels=False,
        )

    @property
    def _random_prompts(self) -> RandomPrompts | None:
        if self.random_conditioning is None:
            return None
        return RandomPrompts(self.random_conditioning, self.random_rate, self.random_prompts)
