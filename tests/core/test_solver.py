"""The solver on problems whose answer is known."""

from __future__ import annotations

import pytest
import torch

from contrapose.core.path import DiffusionPath, FlowPath, shifted_table
from contrapose.core.solver import grid, trajectory


def network(x, t):
    """Any smooth function of state and time will do."""
    return 0.3 * torch.tanh(x) + 0.1 * torch.sin(3 * x + t.float().view(-1, 1, 1, 1) / 300)


@pytest.mark.parametrize("path", [FlowPath(), FlowPath(table=shifted_table(3.0))])
def test_from_pure_noise_it_meets_the_data_that_is_always_predicted(path):
    data = torch.randn(2, 3, 4, 4)
    times = path.times(grid(7, torch.ones(2)))
    states = list(trajectory(path, times, torch.randn(2, 3, 4, 4), lambda x, t: data))
    assert float(times[0, 0]) == 1.0 and all(torch.isfinite(state.x_t).all() for state in states)
    torch.testing.assert_close(states[-1].x0, data)


def test_what_is_known_all_along_stays_on_its_own_noise():
    """So a part of the image whose data is given is, at every time, that data with the noise that it began with."""
    path = DiffusionPath(torch.linspace(0.999, 0.01, 1000))
    data, noise = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    times = path.times(grid(10, torch.tensor([0.2, 0.9]), start=0.6))
    for state in trajectory(path, times, path.add_noise(data, noise, times[0]), lambda x, t: data):
        torch.testing.assert_close(state.x_t, path.add_noise(data, noise, state.t), atol=1e-5, rtol=1e-5)


def test_a_state_is_its_data_and_its_noise():
    path = DiffusionPath(torch.linspace(0.999, 0.01, 1000))
    for state in trajectory(path, path.times(grid(5, torch.rand(2))), torch.randn(2, 3, 4, 4), network):
        eps = path.convert(state.x0, state.x_t, state.t, "x0", "eps")
        torch.testing.assert_close(path.add_noise(state.x0, eps, state.t), state.x_t, atol=1e-5, rtol=1e-5)


def test_the_jittered_grid_is_the_published_one():
    offsets = torch.tensor([0.0, 7 / 50, 49 / 50])
    times = DiffusionPath(torch.linspace(0.999, 0.01, 1000)).times(grid(20, offsets) + 1e-6)
    expected = torch.arange(950, -1, -50)[:, None] + torch.tensor([0, 7, 49])
    assert torch.equal(times, expected)


def test_a_grid_that_begins_late_has_as_many_steps_as_its_share():
    shares = grid(20, torch.ones(1), start=0.3)
    assert len(shares) == 6 and float(shares[0]) == pytest.approx(0.3)
    assert len(grid(20, torch.ones(1), start=0.001)) == 1
