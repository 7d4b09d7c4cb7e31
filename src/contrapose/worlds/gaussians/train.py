"""Teach the reference, and align a copy of it with any method of `contrapose.methods`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from contrapose.core.compose import OwnState, compose
from contrapose.core.group import Apart, Composition, Condition, OnPolicy, Pick
from contrapose.core.running import RunningNumbers
from contrapose.core.solver import grid, trajectory
from contrapose.methods import Method
from contrapose.worlds.gaussians.denoiser import ToyBackbone, ToyDenoiser, diffusion_path
from contrapose.worlds.gaussians.modes import ModePairs, Modes, Points
from contrapose.worlds.gaussians.own import OwnPoints, draw_own


def fit_reference(
    modes: Modes, *, width: int, num_steps: int, seed: int, batch: int = 512, rate: float = 2e-3
) -> ToyDenoiser:
    """A denoiser of the noisy data: E mse(eps, eps_theta(x_t, t, c)) by Adam, the rate falling to zero by a cosine."""
    random = torch.Generator().manual_seed(seed)
    # weights are drawn by torch's global generator, which is put back afterwards
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        denoiser = ToyDenoiser(modes.num_modes, width)
    path = diffusion_path()
    optimizer = torch.optim.Adam(denoiser.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    for _ in range(num_steps):
        labels = torch.randint(modes.num_modes, (batch,), generator=random)
        x0 = modes.noisy(labels, random)
        noise = torch.randn(batch, 2, generator=random)
        t = path.draw_times(batch, random)
        loss = F.mse_loss(denoiser(path.add_noise(x0, noise, t), t, labels), noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return denoiser.eval()


# a pair as a ranked list
_OF_LISTS = {"rank 1": "winner", "rank 2": "loser"}


@dataclass(frozen=True, eq=False)
class _PairFields:
    """The fields of the pairs at these places, and of their partners, as a composition takes them."""

    pairs: ModePairs
    places: Mapping[str, Tensor]
    """Of each group's own pair, and of another one."""
    liked: Tensor | None
    """Where samples are groups of their own, whether each is its pair's winner."""
    prompts_of: Tensor
    """The places of the pairs whose prompts the groups have: their own, or others by random conditioning."""

    def latent(self, pick: Pick) -> Points:
        if self.liked is None:
            return self._field(pick)
        winner, loser = (self._field(Pick(pick.whose, side)) for side in ("winner", "loser"))
        return torch.where(self.liked[:, None], winner, loser)

    def label(self, sample: str) -> Tensor:
        if self.liked is not None:
            return self.liked.float()
        decided = 1.0 if sample in ("winner", "rank 1") else 0.0
        return torch.full((len(self.places["own"]),), decided)

    def scores(self, pick: Pick) -> Mapping[str, Tensor]:
        return {}

    def condition(self, slot: str, pick: Pick) -> Condition:
        places = self.prompts_of if pick.whose == "own" else self.places["other"]
        return {"label": self._values(pick)[places]}

    def _field(self, pick: Pick) -> Tensor:
        return self._values(pick)[self.places[pick.whose]]

    def _values(self, pick: Pick) -> Tensor:
        values: Tensor = getattr(self.pairs, _OF_LISTS.get(pick.field, pick.field))
        return values


def draw_places(pairs: ModePairs, places: Tensor, random: torch.Generator) -> dict[str, Tensor]:
    """The places of these pairs and, for each, of another one."""
    count = len(pairs.prompt)
    # a step of 1 to count - 1 around the circle of pairs never ends where it began; a lone pair is its own partner
    step = torch.randint(1, max(count, 2), places.shape, generator=random)
    return {"own": places, "other": (places + step) % count}


def draw_liked(apart: Apart | None, count: int, random: torch.Generator) -> Tensor | None:
    """Which of so many lone samples are likes; None where samples stay in their pairs."""
    if apart is None:
        return None
    share = 0.5 if apart.like_share is None else apart.like_share  # a pair has one of each
    return torch.rand(count, generator=random) < share


def draw_prompts(
    composition: Composition, pairs: ModePairs, places: Tensor, level: Tensor, random: torch.Generator
) -> Tensor:
    """The places of the pairs whose prompts these groups have: their own, or by random conditioning any pair's."""
    if composition.random_prompts is None:
        return places
    chances = torch.tensor([composition.random_prompts.chance(of_group) for of_group in level.tolist()])
    any_pairs = torch.randint(len(pairs.prompt), places.shape, generator=random)
    is_exchanged = torch.rand(len(places), generator=random) < chances
    return torch.where(is_exchanged, any_pairs, places)


def own_samples(backbone: ToyBackbone, settings: OnPolicy, labels: Tensor, random: torch.Generator) -> OwnState:
    """A state of the drawing policy's trajectory for each label."""
    path = backbone.path
    condition = {"label": labels}
    times = path.times(grid(settings.num_steps, torch.rand(len(labels), generator=random)))

    def denoised(x_t: Tensor, t: Tensor) -> Tensor:
        return path.convert(backbone.predict(settings.policy, x_t, t, condition), x_t, t, backbone.space, "x0")

    noise = torch.randn(len(labels), 2, generator=random)
    # every row walks the whole trajectory, and then one of its states is picked
    states = list(trajectory(path, times, noise, denoised))
    which = torch.randint(len(states), (len(labels),), generator=random)
    if settings.renoised:
        which = torch.full_like(which, len(states) - 1)
    rows = torch.arange(len(labels))
    t, x_t, x0 = (torch.stack(values)[which, rows] for values in zip(*states, strict=True))
    return OwnState(t, x0, path.convert(x0, x_t, t, "x0", "eps"))


def align(
    reference: ToyDenoiser, method: Method, pairs: ModePairs, *, num_steps: int, batch: int, rate: float, seed: int
) -> ToyBackbone:
    """A copy of the reference trained on the pairs; pairs, times and noise are drawn anew at each of `num_steps`.

    A method that draws its own groups takes the pairs' world alone, and its points are judged by how near they are.
    Runs that the method begins with are as long as itself.
    """
    earlier: dict[str, ToyDenoiser] = {}
    for role, first in method.before.items():
        aligned = align(reference, first, pairs, num_steps=num_steps, batch=batch, rate=rate, seed=seed)
        earlier[role] = aligned.policies["trainee"]
    random = torch.Generator().manual_seed(seed)
    # "start" is what the reference and the trainee begin as; other runs' policies stay frozen beside them
    backbone = ToyBackbone(earlier.pop("start", reference), **earlier)
    objective = method.objective()
    composition = method.composition()
    running = RunningNumbers(objective.running)
    own_points: OwnPoints | None = None
    optimizer = torch.optim.AdamW(backbone.policies["trainee"].parameters(), lr=rate, weight_decay=1e-2)
    for step in range(num_steps):
        places = torch.randint(len(pairs.prompt), (batch,), generator=random)
        t = backbone.path.draw_times(batch, random)
        noise = torch.randn(batch, 2, generator=random)
        places_by_owner = draw_places(pairs, places, random)
        liked = draw_liked(composition.apart, batch, random)
        draws: dict[str, Tensor] = {}
        for sample in composition.samples if composition.num_own_draws else ():
            draws[sample] = torch.randn(batch, composition.num_own_draws, 2, generator=random)
        prompts_of = draw_prompts(composition, pairs, places, backbone.path.level(t), random)
        fields = _PairFields(pairs, places_by_owner, liked, prompts_of)
        # before the first step a moving policy is a copy of the trainee
        for policy, following in objective.moving.items():
            backbone.follow(policy, following(step) if step else 0.0)
        on_policy = composition.on_policy
        drawn = own_samples(backbone, on_policy, pairs.prompt[places], random) if on_policy else None
        own_groups = composition.own_groups
        if own_groups and step % own_groups.every == 0:
            newer = draw_own(backbone, own_groups, pairs.modes, random)
            own_points = own_points.followed_by(newer, own_groups.buffer_size) if own_points else newer
        if own_points:
            chosen = own_points.rows(torch.randint(len(own_points.prompt), (batch,), generator=random))
            group = chosen.group(composition, t, noise, draws)
        else:
            group = compose(composition, fields, t, noise, drawn, draws)
        outcome = objective(group, backbone.path, backbone.space, backbone.predict, running.values)
        optimizer.zero_grad()
        outcome.loss.mean().backward()
        optimizer.step()
        running.update({name: float(values.mean()) for name, values in outcome.followed.items()})
    return backbone
