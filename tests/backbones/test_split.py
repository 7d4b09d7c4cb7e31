"""The split-pair backward on real networks, and gradients that outlive a switch of policies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import families
import pytest
import torch
from torch import Tensor
from training import Training, with_full, with_lora, with_own_network

from contrapose.backbones.base import Backbone
from contrapose.core import path as paths
from contrapose.core.group import Group, Sample
from contrapose.methods import DDSPO, DiffusionDPO

PROMPTS, DEGRADED = ["a red circle", "two blue squares above a green star"], ["a circle", "two above green"]


@pytest.fixture(params=["lora", "full"])
def backbone(request: pytest.FixtureRequest, plain: Backbone) -> Training:
    torch.manual_seed(0)
    fresh = with_own_network(plain)
    trained = with_lora(fresh, 4, 4.0) if request.param == "lora" else with_full(fresh, torch.float32)
    moved = torch.Generator().manual_seed(4)
    with torch.no_grad():  # away from the reference, where the weights of both sides would be alike
        for parameter in trained.policies.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=moved), alpha=0.02)
    return trained


@pytest.fixture
def exact(backbone: Training, monkeypatch: pytest.MonkeyPatch) -> Training:
    """In float64: in float32, winner and loser cancel, and what is left of them is rounding at 1e-5."""
    for policy in ("trainee", "reference"):
        backbone.policies.denoiser(policy).double()
    monkeypatch.setattr(backbone.policies, "dtype", lambda policy: torch.float64)
    return backbone


Arguments = tuple[Group, paths.Path]


@pytest.fixture(scope="module")
def arguments_of(loaded: Callable[[str], Backbone]) -> Callable[[str], Arguments]:
    """A family's group of two pairs, and the path of its latents; shared, so they stay as they are."""

    @cache
    def made(family: str) -> Arguments:
        backbone, random = loaded(family), torch.Generator().manual_seed(1)
        shape = backbone.images.shape_for(families.of(family).size)
        latents = torch.randn(2, 2, *shape, generator=random)
        prompts = {"prompt": backbone.text.embed(PROMPTS), "degraded": backbone.text.embed(DEGRADED)}
        path = backbone.denoiser.noising(shape)
        noise, t = torch.randn(2, *shape, generator=random), path.draw_times(2, random)
        samples = {
            name: Sample(latents[:, place], noise, torch.full((2,), 1.0 - place))
            for place, name in enumerate(("winner", "loser"))
        }
        return Group(samples, prompts, t), path

    return made


def _gradients(backbone: Training, objective: Any, arguments: Arguments) -> list[Tensor]:
    for part in objective(*arguments, backbone.denoiser.space, backbone.predict).parts:
        part.sum().backward()
    found = [p.grad for p in backbone.policies.parameters()]
    for parameter in backbone.policies.parameters():
        parameter.grad = None
    return [torch.zeros(()) if grad is None else grad for grad in found]


@pytest.mark.parametrize("method", [DDSPO(beta=50.0), DiffusionDPO(beta=50.0)], ids=["ddspo", "diffusion-dpo"])
@pytest.mark.parametrize("name", families.NAMES)
def test_split_gradient_is_the_plain_one(
    name: str, method: Any, exact: Training, arguments_of: Callable[[str], Arguments]
) -> None:
    arguments = arguments_of(name)
    plain = _gradients(exact, method.objective(), arguments)
    split = _gradients(exact, replace(method.objective(), split=True), arguments)
    assert _norm(plain) > 0
    apart = _norm([a - b for a, b in zip(plain, split, strict=True)]) / _norm(plain)
    assert apart < 1e-6


def _norm(tensors: list[Tensor]) -> float:
    return torch.cat([t.double().flatten() for t in tensors]).norm().item()


@pytest.mark.parametrize("name", ["sd", "flux"])
def test_a_pending_backward_survives_the_reference(
    name: str, backbone: Training, arguments_of: Callable[[str], Arguments]
) -> None:
    """peft freezes adapters when it switches them off."""
    group, path = arguments_of(name)
    condition, winner = group.prompts["prompt"], group.samples["winner"]
    x_t = path.add_noise(winner.latent, winner.noise, group.t)
    answer = backbone.predict("trainee", x_t, group.t, condition)
    with torch.no_grad():
        backbone.predict("reference", winner.noise, group.t, condition)
    answer.square().mean().backward()
    assert all(p.grad is not None for p in backbone.policies.parameters())
