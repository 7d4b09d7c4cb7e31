"""Teach the reference, and align a copy of it with any method of `contrapose.methods`."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from contrapose.core.group import Composition, Group, OnPolicy
from contrapose.core.solver import grid, trajectory
from contrapose.methods import Method, before
from contrapose.worlds.gaussians.denoiser import Backbone, Denoiser, diffusion_path
from contrapose.worlds.gaussians.modes import Modes, Pairs


def fit_reference(
    modes: Modes, *, width: int, num_steps: int, seed: int, batch: int = 512, rate: float = 2e-3
) -> Denoiser:
    """A denoiser of the noisy data: E mse(eps, eps_theta(x_t, t, c)) by Adam, the rate falling to zero by a cosine."""
    random = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        denoiser = Denoiser(modes.num_modes, width)
    path = diffusion_path()
    optimizer = torch.optim.Adam(denoiser.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    for _ in range(num_steps):
        labels = torch.randint(modes.num_modes, (batch,), generator=random)
        x0, noise = modes.noisy(labels, random), torch.randn(batch, 2, generator=random)
        t = path.draw_times(batch, random)
        loss = F.mse_loss(denoiser(path.add_noise(x0, noise, t), t, labels), noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return denoiser.eval()


def compose(pairs: Pairs, composition: Composition, num_sides: int, own: Tensor, random: torch.Generator) -> Group:
    """A batch of groups from the records `own`, as the method's composition asks; side 0 is the winner."""
    count = len(pairs.prompt)
    other = (own + torch.randint(1, max(count, 2), own.shape, generator=random)) % count
    rows = {"own": own, "other": other}
    labels = torch.zeros(len(own), num_sides)
    labels[:, 0] = 1.0
    return Group(
        latents=torch.stack([getattr(pairs, pick.field)[rows[pick.whose]] for pick in composition.latents], 1),
        prompts={
            slot: {"label": getattr(pairs, pick.field)[rows[pick.whose]]} for slot, pick in composition.prompts.items()
        },
        labels=labels,
    )


def own_samples(
    backbone: Backbone, settings: OnPolicy, labels: Tensor, random: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """A state of the lagged policy's trajectory for each label: its time, and data and noise as predicted there."""
    path, condition = backbone.path, {"label": labels}
    times = path.times(grid(settings.num_steps, torch.rand(len(labels), generator=random)))

    def denoised(x_t: Tensor, t: Tensor) -> Tensor:
        return path.convert(backbone.predict("lagged", x_t, t, condition), x_t, t, backbone.space, "x0")

    noise = torch.randn(len(labels), 2, generator=random)
    states = list(trajectory(path, times, noise, denoised))
    which = torch.randint(len(states), (len(labels),), generator=random)
    if settings.renoised:
        which = torch.full_like(which, len(states) - 1)
    t, x_t, x0 = (torch.stack(values)[which, torch.arange(len(labels))] for values in zip(*states, strict=True))
    return t, x0, path.convert(x0, x_t, t, "x0", "eps")


def align(
    reference: Denoiser, method: Method, pairs: Pairs, *, num_steps: int, batch: int, rate: float, seed: int
) -> Backbone:
    """A copy of the reference trained on the pairs; pairs, times and noise are drawn anew at each of `num_steps`.

    Runs that the method begins with are as long as itself.
    """
    how = {"num_steps": num_steps, "batch": batch, "rate": rate, "seed": seed}
    earlier = {r: align(reference, first, pairs, **how).policies["trainee"] for r, first in before(method).items()}
    random = torch.Generator().manual_seed(seed)
    backbone, objective = Backbone(earlier.pop("start", reference), **earlier), method.objective()
    composition, num_sides = method.composition(), len(objective.samples)
    optimizer = torch.optim.AdamW(backbone.policies["trainee"].parameters(), lr=rate, weight_decay=1e-2)
    for step in range(num_steps):
        own = torch.randint(len(pairs.prompt), (batch,), generator=random)
        t, noise = backbone.path.draw_times(batch, random), torch.randn(batch, 2, generator=random)
        group = compose(pairs, composition, num_sides, own, random)
        if settings := composition.on_policy:
            if step % settings.sync_every == 0:
                backbone.policies["lagged"] = copy.deepcopy(backbone.policies["trainee"]).requires_grad_(False)
            at, x0, eps = own_samples(backbone, settings, pairs.prompt[own], random)
            group = replace(group, latents=torch.cat([group.latents, x0[:, None]], 1))
            if not settings.renoised:
                t, noise = at, torch.stack([noise, eps], 1)
        outcome = objective(group, t, noise, backbone.path, backbone.space, backbone.predict)
        optimizer.zero_grad()
        outcome.loss.mean().backward()
        optimizer.step()
    return backbone
