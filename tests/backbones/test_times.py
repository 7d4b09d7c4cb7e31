"""Paths and prediction spaces against the schedulers that the models come with."""

from __future__ import annotations

from pathlib import Path

import families
import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu

from contrapose.backbones.base import Backbone
from contrapose.backbones.times import shift_of
from contrapose.core.path import DiffusionPath, FlowPath
from contrapose.errors import UserError

STEPS = 1000


def test_the_space_is_what_the_network_predicts(name: str, plain: Backbone) -> None:
    assert plain.denoiser.space == families.of(name).space


def test_the_usual_density(name: str, plain: Backbone) -> None:
    """Uniform for SANA and the discrete paths, logit-normal for the others, as their trainers have it."""
    path = plain.denoiser.path
    assert isinstance(path, FlowPath if families.of(name).flow else DiffusionPath)
    assert path.density == families.of(name).density
    assert plain.denoiser.noising(density="uniform").density == "uniform"
    assert plain.denoiser.noising(density="logit-normal").density == "logit-normal"


@pytest.mark.parametrize("name", families.names(flow=False))
def test_times_without_a_shift_are_not_to_be_had_unshifted(plain: Backbone) -> None:
    with pytest.raises(UserError, match=r"^time_shift: .* is no flow model, so its times have none; leave the setting"):
        plain.denoiser.noising(shifted=False)


@pytest.mark.parametrize("name", families.names(table="betas"))
def test_the_discrete_path_is_the_schedulers(name: str, folder: Path, plain: Backbone) -> None:
    """x_t from our path is x_t from the scheduler that trained the model."""
    scheduler = DDPMScheduler.from_pretrained(folder / "scheduler")
    x0, eps = torch.randn(2, 3, *plain.images.latent_shape, generator=torch.Generator().manual_seed(2))
    t = torch.tensor([0, 500, 999])
    assert (plain.denoiser.path.add_noise(x0, eps, t) - scheduler.add_noise(x0, eps, t)).abs().max() < 1e-6
    velocity = scheduler.get_velocity(x0, eps, t)
    torch.testing.assert_close(plain.denoiser.path.truth(x0, eps, t, "v"), velocity, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", families.names(table="static"))
def test_the_table_is_the_schedulers(plain: Backbone, pipe: DiffusionPipeline) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(pipe.scheduler.config)
    assert scheduler.config.shift == 3.0
    torch.testing.assert_close(plain.denoiser.path.table, scheduler.sigmas, atol=1e-6, rtol=0)
    x0, eps = torch.randn(2, 4, 16, 8, 8, generator=torch.Generator().manual_seed(2))
    at = torch.tensor([0, 1, 500, 999])
    expected = scheduler.scale_noise(x0, scheduler.timesteps[at], eps)
    torch.testing.assert_close(
        plain.denoiser.path.add_noise(x0, eps, plain.denoiser.path.table[at]), expected, atol=1e-5, rtol=0
    )
    torch.testing.assert_close(plain.denoiser.path.table * STEPS, scheduler.timesteps, atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", ["flux"])
@pytest.mark.parametrize("sides", [(8, 8), (32, 48), (128, 128)])
def test_the_dynamic_table_is_the_schedulers(sides: tuple[int, int], plain: Backbone, pipe: DiffusionPipeline) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(pipe.scheduler.config)
    scheduler.set_timesteps(
        sigmas=np.linspace(1, 1 / STEPS, STEPS), mu=calculate_shift((sides[0] // 2) * (sides[1] // 2))
    )
    table = plain.denoiser.noising((16, *sides)).table
    torch.testing.assert_close(table, scheduler.sigmas[:-1].float(), atol=1e-6, rtol=0)
    assert (sides == plain.images.latent_shape[1:]) == torch.equal(table, plain.denoiser.path.table)


@pytest.mark.parametrize("name", families.names(table="empirical"))
@pytest.mark.parametrize("sides", [(4, 4), (64, 64), (80, 64)])
def test_the_table_of_fifty_steps_is_the_schedulers(
    sides: tuple[int, int], plain: Backbone, pipe: DiffusionPipeline
) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(pipe.scheduler.config)
    mu = compute_empirical_mu(sides[0] * sides[1], 50)
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / STEPS, STEPS), mu=mu)
    table = plain.denoiser.noising((16, *sides)).table
    torch.testing.assert_close(table, scheduler.sigmas[:-1].float(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["exponential", "linear"])
@pytest.mark.parametrize("tokens", [256, 1000, 4096])
def test_both_kinds_of_dynamic_shift(kind: str, tokens: int) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, time_shift_type=kind)
    mu = calculate_shift(tokens, 256, 4096, 0.5, 1.15)
    scheduler.set_timesteps(sigmas=[1.0, 0.5, 0.1], mu=mu)
    shift, u = shift_of(scheduler, tokens), torch.tensor([1.0, 0.5, 0.1])
    torch.testing.assert_close(shift * u / (1 + (shift - 1) * u), scheduler.sigmas[:-1], atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["sana"])
def test_sanas_shift_is_its_dpm_solvers(plain: Backbone, pipe: DiffusionPipeline) -> None:
    """DPM-Solver's own table runs over 0.999 k / 1000 instead of k / 1000."""
    scheduler = pipe.scheduler.from_config(pipe.scheduler.config)
    scheduler.set_timesteps(STEPS)
    u = 0.999 * torch.arange(STEPS, 0, -1) / STEPS
    shift = shift_of(scheduler, 64)
    assert shift == 3.0
    torch.testing.assert_close(shift * u / (1 + (shift - 1) * u), scheduler.sigmas[:-1].float(), atol=1e-6, rtol=0)
    torch.testing.assert_close(plain.denoiser.path.table, scheduler.sigmas[:-1].float(), atol=1.1e-3, rtol=0)
    x0, eps = torch.randn(2, 3, *plain.images.latent_shape, generator=torch.Generator().manual_seed(2))
    at = torch.tensor([3, 500, 990])
    times = scheduler.sigmas[at].float()
    expected = scheduler.add_noise(x0, eps, scheduler.timesteps[at])
    torch.testing.assert_close(plain.denoiser.path.add_noise(x0, eps, times), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["sana"])
def test_unshifted_times_are_those_that_ddspo_trains_sana_at(plain: Backbone, pipe: DiffusionPipeline) -> None:
    """Its trainer reads SANA's scheduler as a FlowMatchEuler one, which drops `flow_shift`: sigma = k / 1000."""
    theirs = FlowMatchEulerDiscreteScheduler.from_config(pipe.scheduler.config)
    torch.testing.assert_close(theirs.sigmas, torch.arange(STEPS, 0, -1) / STEPS, atol=1e-6, rtol=0)
    quarters, u = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95]), torch.Generator()
    expected = theirs.sigmas.quantile(quarters)
    unshifted = plain.denoiser.noising(shifted=False).draw_times(20_000, u.manual_seed(0)).quantile(quarters)
    torch.testing.assert_close(unshifted, expected, atol=0.02, rtol=0)
    shifted = plain.denoiser.path.draw_times(20_000, u.manual_seed(0)).quantile(quarters)
    torch.testing.assert_close(shifted, torch.tensor([0.136, 0.5, 0.75, 0.9, 0.983]), atol=0.02, rtol=0)


@pytest.mark.parametrize("name", families.names(flow=True))
def test_velocity_takes_the_scheduler_to_the_data(plain: Backbone, pipe: DiffusionPipeline) -> None:
    """With the true velocity, one step of the sampler from the noise is the data: the sign is theirs."""
    x0, eps = torch.randn(2, 1, 16, 8, 8, generator=torch.Generator().manual_seed(2))
    t = torch.ones(1)
    velocity = plain.denoiser.path.truth(x0, eps, t, plain.denoiser.space)
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(sigmas=[1.0])
    torch.testing.assert_close(scheduler.step(velocity, scheduler.timesteps[0], eps).prev_sample, x0, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", families.names(flow=True))
def test_times_are_drawn_from_the_table_or_as_they_are(plain: Backbone) -> None:
    drawn = plain.denoiser.noising().draw_times(50, torch.Generator().manual_seed(0))
    assert torch.isin(drawn, plain.denoiser.path.table).all()
    free = plain.denoiser.noising(shifted=False)
    assert free.table is None
    u = free.draw_times(20_000, torch.Generator().manual_seed(0))
    shifted = plain.denoiser.path.draw_times(20_000, torch.Generator().manual_seed(0))
    assert abs(float(u.mean()) - 0.5) < 0.01
    assert shifted.min() > 0
    assert shifted.max() <= 1
    assert (shifted.mean() - 0.5).abs() > 0.01, "the shift moves times"
