"""The theory against diffusers: paths against its schedulers, the solver against its own."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler

from contrapose.core.path import DiffusionPath, FlowPath, shifted_table
from contrapose.core.solver import trajectory


def states(seed, b=5):
    random = torch.Generator().manual_seed(seed)
    return torch.randn(b, 3, 4, generator=random), torch.randn(b, 3, 4, generator=random)


def network(x, t):
    """Any smooth function of state and time will do."""
    return 0.3 * torch.tanh(x) + 0.1 * torch.sin(3 * x + t.float().view(-1, 1, 1, 1) / 300)


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_diffusion_path_agrees_with_diffusers_ddpm(schedule):
    scheduler = DDPMScheduler(beta_schedule=schedule)
    path = DiffusionPath(scheduler.alphas_cumprod)
    x0, eps = states(3, b=6)
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
    x0, eps = states(4)
    witness = scheduler.scale_noise(x0, timesteps, eps)
    torch.testing.assert_close(FlowPath().add_noise(x0, eps, timesteps / 1000), witness)


@pytest.mark.parametrize("shift", [1.0, 3.0, 6.5])
def test_the_table_of_times_is_the_schedulers(shift):
    sigmas = FlowMatchEulerDiscreteScheduler(shift=shift).sigmas[:1000]
    torch.testing.assert_close(shifted_table(shift), sigmas, atol=1e-6, rtol=0)


def test_it_is_the_solver_of_diffusers_on_a_noise_schedule():
    witness = DPMSolverMultistepScheduler(beta_schedule="scaled_linear", final_sigmas_type="zero")
    times = torch.tensor([950, 800, 730, 512, 300, 111, 40])
    witness.set_timesteps(timesteps=times.tolist())
    path = DiffusionPath(witness.alphas_cumprod)
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))

    def denoised(x_t, t):
        return path.convert(network(x_t, t), x_t, t, "eps", "x0")

    states = list(trajectory(path, times[:, None].expand(-1, 2), x, denoised))
    theirs = x
    for time, state in zip(witness.timesteps, states, strict=True):
        torch.testing.assert_close(state.x_t, theirs, atol=2e-5, rtol=1e-4)
        theirs = witness.step(network(theirs, time.expand(2)), time, theirs).prev_sample
    torch.testing.assert_close(states[-1].x0, theirs, atol=2e-5, rtol=1e-4)


def test_it_is_the_solver_of_diffusers_on_a_flow():
    witness = DPMSolverMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0, final_sigmas_type="zero"
    )
    witness.set_timesteps(8)
    sigmas = witness.sigmas[:-1].clone()
    path = FlowPath()
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))

    def denoised(x_t, t):
        return path.convert(network(x_t, t * 1000), x_t, t, "velocity", "x0")

    states = list(trajectory(path, sigmas[:, None].expand(-1, 2), x, denoised))
    theirs = x
    for time, sigma, state in zip(witness.timesteps, sigmas, states, strict=True):
        torch.testing.assert_close(state.x_t, theirs, atol=2e-5, rtol=1e-4)
        theirs = witness.step(network(theirs, (sigma * 1000).expand(2)), time, theirs).prev_sample
    torch.testing.assert_close(states[-1].x0, theirs, atol=2e-5, rtol=1e-4)
