"""Paths: every conversion is undone by its inverse, says the truth, and agrees with diffusers' schedulers."""

from __future__ import annotations

import itertools
from typing import get_args

import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from contrapose.core.path import DiffusionPath, FlowPath, Path, Space

ABAR = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012).alphas_cumprod
PATHS: tuple[Path, ...] = (DiffusionPath(ABAR), FlowPath(), FlowPath(shift=3.0, density="logit-normal"))
SPACES: tuple[Space, ...] = get_args(Space)
CONVERSIONS = [(path, source, to) for path in PATHS for source, to in itertools.product(SPACES, SPACES)]


def states(seed: int, b: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(b, 3, 4, generator=random).double(), torch.randn(b, 3, 4, generator=random).double()


def times(path: Path, shares: list[float]) -> torch.Tensor:
    """Times at these shares of the way, kept off the ends where a space is undefined."""
    share = torch.tensor(shares, dtype=torch.float64).clamp(0.02, 0.98)
    return (share * 999).long() if isinstance(path, DiffusionPath) else share


five_shares = st.lists(st.floats(0, 1), min_size=5, max_size=5)


@pytest.mark.parametrize(("path", "source", "to"), CONVERSIONS)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), shares=five_shares)
def test_conversions_round_trip_on_any_prediction(path, source, to, seed, shares):
    prediction, x_t = states(seed)
    t = times(path, shares)
    there = path.convert(prediction, x_t, t, source, to)
    torch.testing.assert_close(path.convert(there, x_t, t, to, source), prediction, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("path", "source", "to"), CONVERSIONS)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), shares=five_shares)
def test_conversions_take_the_truth_to_the_truth(path, source, to, seed, shares):
    x0, eps = states(seed)
    t = times(path, shares)
    x_t = path.add_noise(x0, eps, t)
    converted = path.convert(path.truth(x0, eps, t, source), x_t, t, source, to)
    torch.testing.assert_close(converted, path.truth(x0, eps, t, to), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("path", "space"), list(itertools.product(PATHS, SPACES)))
def test_conversion_goes_through_a_third_space_unchanged(path, space):
    prediction, x_t = states(0)
    t = times(path, [0.1, 0.3, 0.5, 0.7, 0.9])
    for via, to in itertools.product(SPACES, SPACES):
        indirect = path.convert(path.convert(prediction, x_t, t, space, via), x_t, t, via, to)
        torch.testing.assert_close(indirect, path.convert(prediction, x_t, t, space, to), rtol=1e-4, atol=1e-4)


def test_truth_of_each_space_is_what_its_name_says():
    x0, eps = states(1)
    flow_t = torch.full((5,), 0.3)
    path, t = DiffusionPath(ABAR), torch.full((5,), 400)
    a, s = ABAR[400].sqrt(), (1 - ABAR[400]).sqrt()
    assert torch.equal(path.truth(x0, eps, t, "eps"), eps)
    assert torch.equal(path.truth(x0, eps, t, "x0"), x0)
    torch.testing.assert_close(path.truth(x0, eps, t, "v"), a * eps - s * x0)
    torch.testing.assert_close(FlowPath().truth(x0, eps, flow_t, "velocity"), eps - x0)


def test_noise_is_not_overwritten_by_the_target():
    x0, eps = states(2)
    kept = eps.clone()
    path, t = DiffusionPath(ABAR), torch.full((5,), 500)
    target = path.truth(x0, eps, t, "eps")
    path.add_noise(x0, eps, t)
    target += 1.0
    assert torch.equal(eps, kept)


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_diffusion_path_agrees_with_diffusers_ddpm(schedule):
    scheduler = DDPMScheduler(beta_schedule=schedule)
    path = DiffusionPath(scheduler.alphas_cumprod)
    x0, eps = (x.float() for x in states(3, b=6))
    t = torch.tensor([0, 1, 250, 500, 900, 999])
    x_t = path.add_noise(x0, eps, t)
    torch.testing.assert_close(x_t, scheduler.add_noise(x0, eps, t))
    torch.testing.assert_close(path.truth(x0, eps, t, "v"), scheduler.get_velocity(x0, eps, t))
    converted = path.convert(eps, x_t, t, "eps", "v")
    early = t <= 900  # the cosine schedule leaves too little data in x_t to read it back at the very end
    torch.testing.assert_close(converted[early], scheduler.get_velocity(x0, eps, t)[early], atol=1e-4, rtol=0)


def test_flow_path_agrees_with_diffusers_flow_matching():
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    timesteps = scheduler.timesteps[[0, 10, 300, 700, 999]]
    x0, eps = (x.float() for x in states(4))
    witness = scheduler.scale_noise(x0, timesteps, eps)
    torch.testing.assert_close(FlowPath(shift=3.0).add_noise(x0, eps, timesteps / 1000), witness)


def test_drawn_flow_times_are_shifted_as_diffusers_shifts_its_sigmas():
    drawn = FlowPath(shift=3.0).draw_times(4000, torch.Generator().manual_seed(0)).sort().values
    sigmas = FlowMatchEulerDiscreteScheduler(shift=3.0).sigmas[:1000].flip(0)
    assert (
        drawn.quantile(torch.tensor([0.1, 0.5, 0.9])) - sigmas.quantile(torch.tensor([0.1, 0.5, 0.9]))
    ).abs().max() < 0.02


@pytest.mark.parametrize("path", PATHS)
def test_drawn_times_are_reproducible_and_lie_on_the_path(path):
    first, again = (path.draw_times(500, torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(first, again)
    level = path.level(first)
    assert 0 <= level.min() < 0.3 and 0.7 < level.max() <= 1
    assert first.is_floating_point() == isinstance(path, FlowPath)


def test_level_runs_from_data_to_noise():
    assert DiffusionPath(ABAR).level(torch.tensor([0, 999])).tolist() == [0.0, 1.0]
    assert FlowPath().level(torch.tensor([0.0, 1.0])).tolist() == [0.0, 1.0]
