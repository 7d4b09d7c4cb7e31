"""Points that the toy's model draws itself while it trains, and an analytic judge of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from contrapose.core.compose import compose
from contrapose.core.group import REWARD, Composition, Condition, Group, OwnGroups, OwnSteps, Pick
from contrapose.core.path import Path
from contrapose.core.solver import grid
from contrapose.core.transitions import Fork, Step, forks, implied, reward_scale
from contrapose.worlds.gaussians.denoiser import ToyBackbone, sample
from contrapose.worlds.gaussians.modes import Labels, Modes, Points

if TYPE_CHECKING:
    from jaxtyping import Float, Num

_STEPS = 20  # of the sampler, where the method says none


def closeness(points: Points, labels: Labels, modes: Modes) -> Float[Tensor, " n"]:
    """The judge: minus the distance of each point from the centre of its own condition's mode."""
    return -(points - modes.centres[labels]).norm(dim=1)


class PointSteps(NamedTuple):
    """Where points are steps of a sampler: when those of each group were taken, and the noise that they imply."""

    t: Num[Tensor, " b"]
    noises: Float[Tensor, "b n 2"]
    reward_scales: Float[Tensor, " b"]


@dataclass(frozen=True, eq=False)
class OwnPoints:
    """Groups of a policy's own points, the best of each first, as a composition takes them; see `compose.Fields`."""

    points: Float[Tensor, "b n 2"]
    rewards: Float[Tensor, "b n"]
    prompt: Labels
    steps: PointSteps | None = None

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
        steps = self.steps and PointSteps(*(part[places] for part in self.steps))
        return OwnPoints(self.points[places], self.rewards[places], self.prompt[places], steps)

    def followed_by(self, newer: OwnPoints, size: int) -> OwnPoints:
        """The latest so many of these and of newer ones."""
        points = torch.cat([self.points, newer.points])[-size:]
        rewards = torch.cat([self.rewards, newer.rewards])[-size:]
        prompt = torch.cat([self.prompt, newer.prompt])[-size:]
        steps: PointSteps | None = None
        if self.steps is not None and newer.steps is not None:
            steps = PointSteps(*(torch.cat(parts)[-size:] for parts in zip(self.steps, newer.steps, strict=True)))
        return OwnPoints(points, rewards, prompt, steps)

    def group(self, composition: Composition, t: Num[Tensor, " b"], noise: Points, draws: dict[str, Tensor]) -> Group:
        """These points as groups at times `t` and under this noise; steps at their own times and under their own."""
        if self.steps is None:
            return compose(composition, self, t, noise, draws=draws)
        noises = {name: self.steps.noises[:, [self._place(pick.field)]] for name, pick in composition.samples.items()}
        group = compose(composition, self, self.steps.t, noise, draws=noises)
        return replace(group, reward_scale=self.steps.reward_scales)

    @staticmethod
    def _place(field: str) -> int:
        if field in ("winner", "loser"):
            return 0 if field == "winner" else -1
        number = re.fullmatch(r"(?:rank|sample) (\d+)", field)
        assert number is not None, f"a sample of no group: {field}"
        return int(number[1]) - 1


def draw_own(backbone: ToyBackbone, settings: OwnGroups, modes: Modes, random: torch.Generator) -> OwnPoints:
    """New groups of random conditions; those that the judge sees no difference in are left out."""
    if isinstance(settings, OwnSteps):
        groups = _draw_steps(backbone, settings, modes, random)
    else:
        groups = _draw_points(backbone, settings, modes, random)
    if settings.tie_margin is None:
        return groups
    spread = groups.rewards[:, 0] - groups.rewards[:, -1]
    return groups.rows(torch.nonzero(spread > settings.tie_margin).flatten())


def _draw_points(backbone: ToyBackbone, settings: OwnGroups, modes: Modes, random: torch.Generator) -> OwnPoints:
    num = settings.num_samples
    prompt = torch.randint(modes.num_modes, (settings.num_prompts,), generator=random)
    labels = prompt.repeat_interleave(num)

    def predict(x_t: Points, t: Tensor, condition: Labels) -> Points:
        return backbone.predict(settings.policy, x_t, t, {"label": condition})

    points = sample(predict, labels, random, settings.num_steps or _STEPS)
    rewards = closeness(points, labels, modes).unflatten(0, (-1, num))
    order = rewards.argsort(dim=1, descending=True, stable=True)
    ranked = rewards.gather(1, order)
    return OwnPoints(points.unflatten(0, (-1, num))[torch.arange(len(prompt))[:, None], order], ranked, prompt)


def _draw_steps(backbone: ToyBackbone, settings: OwnSteps, modes: Modes, random: torch.Generator) -> OwnPoints:
    """The best and the worst candidate of every fork; or the steps of the best and the worst of whole trajectories."""
    num = settings.num_samples
    num_steps = settings.num_steps or _STEPS
    prompt = torch.randint(modes.num_modes, (settings.num_prompts,), generator=random)
    noise = torch.randn(len(prompt), 2, generator=random)
    is_whole = settings.first_fork is None
    # whole trajectories of a condition begin at one noise, and have one candidate for each step
    copies = num if is_whole else 1
    labels = prompt.repeat_interleave(copies)
    path = backbone.path

    def predicted(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        asked = labels.repeat_interleave(len(x) // len(labels))
        eps = backbone.predict(settings.policy, x, t, {"label": asked})
        return path.convert(eps, x, t, "eps", "x0"), eps

    def draw(width: int) -> Tensor:
        return torch.randn(len(labels), width, 2, generator=random)

    def choose(width: int) -> Tensor:
        return torch.randint(width, (len(labels),), generator=random)

    times = path.times(grid(num_steps, torch.ones(len(labels))))
    start = noise.repeat_interleave(copies, 0)
    taken = list(forks(path, times, start, predicted, settings.eta, settings.widths(num_steps), draw, choose))
    # those of whole trajectories are compared from the first one on
    compared = taken[settings.first_fork :]
    # [b, n, 2] for each step, of which the best and the worst are to be found
    judged = [fork.x0.reshape(-1, num, 2) for fork in compared]
    if is_whole:
        judged = [judged[-1]] * len(compared)
    groups: list[OwnPoints] = []
    for fork, x0 in zip(compared, judged, strict=True):
        rewards = closeness(x0.flatten(0, 1), prompt.repeat_interleave(num), modes).unflatten(0, (-1, num))
        groups.append(_best_and_worst(path, fork, rewards, prompt))
    earliest, *later = groups
    for of_step in later:
        earliest = earliest.followed_by(of_step, len(prompt) * len(groups))
    return earliest


def _best_and_worst(path: Path, fork: Fork, rewards: Float[Tensor, "b n"], prompt: Labels) -> OwnPoints:
    """The best and the worst of n steps of each condition, from one state or from n of them."""
    b, num = rewards.shape
    ends = rewards.argsort(dim=1, descending=True, stable=True)[:, [0, -1]]
    rows = torch.arange(b)[:, None]
    # where the states are one, it stands for those of all its candidates
    states = fork.x_t.view(b, -1, 2).expand(b, num, 2)[rows, ends]
    led_to = fork.candidates.reshape(b, num, 2)[rows, ends]
    of_group = slice(None, None, len(fork.t) // b)
    t = fork.t[of_group]
    step = Step(*(part[of_group] for part in fork.step))
    parts = [implied(path, step, t, states[:, place], led_to[:, place]) for place in (0, 1)]
    points = torch.stack([x0 for x0, _ in parts], 1)
    noises = torch.stack([eps for _, eps in parts], 1)
    steps = PointSteps(t, noises, reward_scale(path, step, t, "eps"))
    return OwnPoints(points, rewards.gather(1, ends), prompt, steps)
