"""Points that the toy's model draws itself while it trains, and an analytic judge of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from contrapose.core.group import REWARD, Condition, OwnGroups, Pick
from contrapose.worlds.gaussians.denoiser import ToyBackbone, sample
from contrapose.worlds.gaussians.modes import Labels, Modes, Points

if TYPE_CHECKING:
    from jaxtyping import Float

_STEPS = 20  # of the sampler, where the method says none


def closeness(points: Points, labels: Labels, modes: Modes) -> Float[Tensor, " n"]:
    """The judge: minus the distance of each point from the centre of its own condition's mode."""
    return -(points - modes.centres[labels]).norm(dim=1)


@dataclass(frozen=True, eq=False)
class OwnPoints:
    """Groups of a policy's own points, the best of each first, as a composition takes them; see `compose.Fields`."""

    points: Float[Tensor, "b n 2"]
    rewards: Float[Tensor, "b n"]
    prompt: Labels

    def latent(self, pick: Pick) -> Points:
        return self.points[:, self._place(pick.field)]

    def label(self, sample: str) -> Float[Tensor, " b"]:
        num = self.points.shape[1]
        rank = self._place(sample) % num
        return torch.full((len(self.prompt),), 1 - rank / (num - 1))

    def scores(self, pick: Pick) -> Mapping[str, Float[Tensor, " b"]]:
        return {REWARD: self.rewards[:, self._place(pick.field)]}

    def condition(self, slot: str, pick: Pick) -> Condition:
        return {"label": self.prompt}

    def rows(self, places: Tensor) -> OwnPoints:
        """These groups."""
        return OwnPoints(self.points[places], self.rewards[places], self.prompt[places])

    def followed_by(self, newer: OwnPoints, size: int) -> OwnPoints:
        """The latest so many of these and of newer ones."""
        points = torch.cat([self.points, newer.points])[-size:]
        rewards = torch.cat([self.rewards, newer.rewards])[-size:]
        return OwnPoints(points, rewards, torch.cat([self.prompt, newer.prompt])[-size:])

    @staticmethod
    def _place(field: str) -> int:
        if field in ("winner", "loser"):
            return 0 if field == "winner" else -1
        number = re.fullmatch(r"(?:rank|sample) (\d+)", field)
        assert number is not None, f"a sample of no group: {field}"
        return int(number[1]) - 1


def draw_own(backbone: ToyBackbone, settings: OwnGroups, modes: Modes, random: torch.Generator) -> OwnPoints:
    """New groups of random conditions; those that the judge sees no difference in are left out."""
    num = settings.num_samples
    prompt = torch.randint(modes.num_modes, (settings.num_prompts,), generator=random)
    labels = prompt.repeat_interleave(num)

    def predict(x_t: Points, t: Tensor, condition: Labels) -> Points:
        return backbone.predict(settings.policy, x_t, t, {"label": condition})

    points = sample(predict, labels, random, settings.num_steps or _STEPS)
    rewards = closeness(points, labels, modes).unflatten(0, (-1, num))
    order = rewards.argsort(dim=1, descending=True, stable=True)
    ranked = rewards.gather(1, order)
    groups = OwnPoints(points.unflatten(0, (-1, num))[torch.arange(len(prompt))[:, None], order], ranked, prompt)
    if settings.tie_margin is None:
        return groups
    return groups.rows(torch.nonzero(ranked[:, 0] - ranked[:, -1] > settings.tie_margin).flatten())
