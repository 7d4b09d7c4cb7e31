"""Paths: every conversion is undone by its inverse, and says the truth."""

from __future__ import annotations

import itertools
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contrapose.core.choices import Space
from contrapose.core.path import DiffusionPath, FlowPath, Path, shifted_table

ABAR = (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000).square()).cumprod(0)  # Stable Diffusion's
PATHS: tuple[Path, ...] = (
    DiffusionPath(ABAR),
    DiffusionPath(ABAR, "logit-normal"),
    FlowPath(),
    FlowPath("logit-normal"),
    FlowPath("logit-normal", shifted_table(3.0)),
)
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


def test_times_come_from_the_table_by_their_share_of_its_length():
    """u in 0..1 picks entry floor(1000 u), as `timesteps[int(u * 1000)]` of the authors' code."""
    table = shifted_table(3.0)
    for density in ("uniform", "logit-normal"):
        drawn = FlowPath(density, table).draw_times(4000, torch.Generator().manual_seed(0))
        share = FlowPath(density).draw_times(4000, torch.Generator().manual_seed(0))
        assert torch.equal(drawn, table[(share * 1000).long()])
    assert drawn.median() > 0.7, "shift 3 moves the middle from 0.5 to 0.75"


def test_logit_normal_times_stand_in_the_middle():
    share = FlowPath("logit-normal").draw_times(20_000, torch.Generator().manual_seed(0))
    steps = DiffusionPath(ABAR, "logit-normal").draw_times(20_000, torch.Generator().manual_seed(0))
    witness = torch.special.expit(torch.tensor([-1.0, 1.0]))  # a standard normal is within 1 of 0 in 68.27 % of draws
    for drawn in (share, steps / 1000):
        assert ((drawn > witness[0]) & (drawn < witness[1])).float().mean() == pytest.approx(0.6827, abs=0.01)


def of_authors(density: str) -> torch.Tensor:
    """DDSPO's chances of its 1000 times, as its code writes them."""
    if density == "linear":
        chances = torch.linspace(1.0, 0.0, 1000)
    else:
        chances = 1 / (1 + torch.exp(-20 * (torch.arange(1000) / 1000 - 0.7)))
    return chances / chances.sum()


@pytest.mark.parametrize("density", ["linear", "sigmoid"])
def test_ddspos_densities_are_its_codes(density):
    """Of any tenth of the way, the share of draws is the sum of its code's chances there; a table is counted from 0."""
    chances = of_authors(density).view(10, 100).sum(1)
    count = 40_000
    random = torch.Generator()
    steps = DiffusionPath(ABAR, density).draw_times(count, random.manual_seed(0))
    drawn = torch.bincount(steps // 100, minlength=10) / count
    torch.testing.assert_close(drawn, chances, atol=0.006, rtol=0)
    share = FlowPath(density).draw_times(count, random.manual_seed(0))
    assert torch.equal((share * 1000).long(), steps)
    table = shifted_table(3.0)
    shifted = FlowPath(density, table).draw_times(count, random.manual_seed(0))
    late = (shifted > table[500]).float().mean()
    assert late == pytest.approx(float(chances[5:].sum()), abs=0.006)


@pytest.mark.parametrize("density", ["uniform", "linear", "sigmoid"])
def test_times_by_uniform_numbers_are_drawn_times(density):
    for path in (FlowPath(density), FlowPath(density, shifted_table(3.0)), DiffusionPath(ABAR, density)):
        if density == "uniform" and isinstance(path, DiffusionPath):
            continue  # draws whole numbers, which have the same chances
        numbers = torch.rand(500, generator=torch.Generator().manual_seed(7))
        assert torch.equal(path.times_by(numbers), path.draw_times(500, torch.Generator().manual_seed(7)))


def test_times_by_even_numbers_have_the_densitys_chances():
    even = (torch.arange(1000) + 0.5) / 1000
    assert torch.equal(DiffusionPath(ABAR).times_by(even), torch.arange(1000))
    table = shifted_table(3.0)
    assert torch.equal(FlowPath(table=table).times_by(even), table)
    normal = FlowPath("logit-normal").times_by(even).logit()
    torch.testing.assert_close(normal, torch.distributions.Normal(0, 1).icdf(even), atol=1e-4, rtol=1e-4)


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
