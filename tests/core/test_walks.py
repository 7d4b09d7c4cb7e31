"""Inversion: against diffusers' own scheduler, on every path, and what it finds."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from contrapose.core.choices import Space
from contrapose.core.group import Group, Sample
from contrapose.core.objective import Scene
from contrapose.core.path import DiffusionPath, FlowPath, Path
from contrapose.core.walks import Descent, Inversion, Walk

ABAR = (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64).square()).cumprod(0)
SHAPE = (2, 3, 3)
CONDITION = {"text": torch.tensor([[0.3], [0.1], [-0.2]], dtype=torch.float64)}


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network(policy: str, x: Tensor, t: Tensor, condition: Mapping[str, Tensor]) -> Tensor:
    """Any network."""
    per_row = (t.double() / 1000 + condition["text"][:, 0]).view(-1, 1, 1, 1)
    return torch.tanh(0.7 * x + per_row)


def scene_at(t: Tensor, path: Path, space: Space = "eps", predict=network, num_draws: int = 0) -> Scene:
    b = len(t)
    samples = {}
    for seed, name in enumerate(("winner", "loser")):
        draws = normal(10 + seed, b, num_draws, *SHAPE) if num_draws else None
        samples[name] = Sample(normal(seed, b, *SHAPE), normal(5, b, *SHAPE), torch.ones(b), draws=draws)
    group = Group(samples, {"prompt": {"text": CONDITION["text"][:b]}}, t)
    return Scene(group, path, space, space, predict)


def walked(walk: Walk, scene: Scene) -> Group:
    return walk(scene.group, scene.path, scene.space, scene.predict)


@pytest.mark.parametrize("space", ["eps", "v"])
def test_states_are_those_of_diffusers_inverse_scheduler(space: Space) -> None:
    """Nine of its ten steps of 100, the first of which, to time 0, leaves a sample where it is."""
    from diffusers import DDIMInverseScheduler

    kind = {"eps": "epsilon", "v": "v_prediction"}[space]
    theirs = DDIMInverseScheduler(
        1000, 0.00085, 0.012, "scaled_linear", clip_sample=False, set_alpha_to_one=False, prediction_type=kind
    )
    theirs.alphas_cumprod = ABAR
    theirs.initial_alpha_cumprod = ABAR[0]
    theirs.set_timesteps(10)
    scene = scene_at(torch.tensor([900]), DiffusionPath(ABAR), space)
    group = walked(Inversion(9), scene)
    for name, sample in scene.group.samples.items():
        x = sample.latent
        for time in theirs.timesteps:
            answer = network("trainee", x, time[None], {"text": CONDITION["text"][:1]})
            x = theirs.step(answer, time, x).prev_sample
        ours = scene.path.add_noise(sample.latent, group.samples[name].noise, group.t)
        torch.testing.assert_close(ours, x, rtol=1e-12, atol=1e-12)


def test_on_a_flow_a_step_is_eulers() -> None:
    """x_u = x_s + (u - s) v(x_s, told u), from the data themselves."""
    t = torch.tensor([0.6, 0.9], dtype=torch.float64)
    scene = scene_at(t, FlowPath(), "velocity")
    group = walked(Inversion(3), scene)
    x = scene.group.samples["winner"].latent
    for number in range(1, 4):
        x = x + (t / 3).view(-1, 1, 1, 1) * network("", x, t * number / 3, {"text": CONDITION["text"][:2]})
    ours = scene.path.add_noise(scene.group.samples["winner"].latent, group.samples["winner"].noise, t)
    torch.testing.assert_close(ours, x, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("path", [DiffusionPath(ABAR), FlowPath()])
def test_where_the_noise_can_be_read_off_it_is_found(path: Path) -> None:
    """A network that answers with one noise, whatever it is asked, has drawn everything from that."""
    known = normal(7, 1, *SHAPE)

    def predict(policy: str, x: Tensor, t: Tensor, condition: Mapping[str, Tensor]) -> Tensor:
        return known.expand_as(x)

    t = torch.tensor([100, 700]) if isinstance(path, DiffusionPath) else torch.tensor([0.1, 0.7], dtype=torch.float64)
    group = walked(Inversion(5, renoise=True), scene_at(t, path, "eps", predict))
    if isinstance(path, FlowPath):
        for sample in group.samples.values():
            torch.testing.assert_close(sample.noise, known.expand_as(sample.noise), rtol=1e-9, atol=1e-9)
    else:  # of the data, some noise of time 0 is taken for what the network says it is
        for sample in group.samples.values():
            assert (sample.noise - known).abs().max() < 0.35


def test_the_way_back_is_nearer_with_renoise() -> None:
    """From the state that was found, the sampler's own steps should lead to the data."""
    errors = []
    for renoise in (False, True):
        t = torch.full((1,), 0.8, dtype=torch.float64)
        scene = scene_at(t, FlowPath(), "velocity")
        sample = scene.group.samples["winner"]
        noise = walked(Inversion(8, renoise=renoise), scene).samples["winner"].noise
        x = scene.path.add_noise(sample.latent, noise, t)
        for number in range(8, 0, -1):
            x = x - (t / 8).view(-1, 1, 1, 1) * network("", x, t * number / 8, {"text": CONDITION["text"][:1]})
        errors.append(float((x - sample.latent).abs().mean()))
    assert errors[1] < 0.8 * errors[0]


def test_times_are_kept_and_rows_do_not_depend_on_each_other() -> None:
    """Three groups at once, or each by itself, with chance and without."""
    t = torch.tensor([3, 400, 999])
    for eta in (0.0, 0.5):
        inversion = Inversion(4, eta)
        scene = scene_at(t, DiffusionPath(ABAR), num_draws=inversion.num_draws)
        group = walked(inversion, scene)
        assert torch.equal(group.t, t)
        for row in range(3):
            samples = {}
            for name, sample in scene.group.samples.items():
                draws = None if sample.draws is None else sample.draws[row : row + 1]
                part = slice(row, row + 1)
                samples[name] = Sample(sample.latent[part], sample.noise[part], sample.label[part], draws=draws)
            alone = Group(samples, {"prompt": {"text": CONDITION["text"][row : row + 1]}}, t[row : row + 1])
            of_row = walked(inversion, Scene(alone, scene.path, "eps", "eps", network))
            for name, sample in of_row.samples.items():
                torch.testing.assert_close(sample.noise[0], group.samples[name].noise[row], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("path", [DiffusionPath(ABAR), FlowPath()])
def test_where_nothing_has_been_added_the_noise_is_the_drawn_one(path: Path) -> None:
    t = torch.zeros(1, dtype=torch.long if isinstance(path, DiffusionPath) else torch.float64)
    scene = scene_at(t, path, num_draws=2)
    group = walked(Inversion(2, eta=0.1), scene)
    for name, sample in group.samples.items():
        assert torch.equal(sample.noise, scene.group.samples[name].noise)


def test_chance_adds_as_much_as_eta_says() -> None:
    """With the whole of DDPM's deviation, states lie as far apart as its steps are wide."""
    t = torch.tensor([500])
    scene = scene_at(t, DiffusionPath(ABAR), num_draws=1)
    plain = walked(Inversion(1), scene).samples["winner"].noise
    moved = walked(Inversion(1, eta=1.0), scene).samples["winner"].noise
    of_500, of_999 = float(ABAR[500]), float(ABAR[999])  # one step beyond 500 is past the end
    deviation = ((1 - of_500) / (1 - of_999) * (1 - of_999 / of_500)) ** 0.5
    drawn = scene.group.samples["winner"].draws
    torch.testing.assert_close(moved - plain, deviation / (1 - of_500) ** 0.5 * drawn[:, 0], rtol=1e-9, atol=1e-9)


# Down a policy's own way


@pytest.mark.parametrize("path", [DiffusionPath(ABAR), FlowPath()])
def test_a_descent_ends_where_the_trainee_is_to_begin(path: Path) -> None:
    """Of a network that knows the data, these are found, and the state that is told has them and unit noise."""
    data = normal(1, 1, *SHAPE)

    def predict(policy: str, x: Tensor, t: Tensor, condition: Mapping[str, Tensor]) -> Tensor:
        assert policy == "teacher"
        if isinstance(path, DiffusionPath):
            return data.expand_as(x)
        return (x - data) / t.clamp_min(1e-9).view(-1, 1, 1, 1)

    space: Space = "x0" if isinstance(path, DiffusionPath) else "velocity"
    b = 400
    u = torch.rand(b, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    t = (u * 1000).long() if isinstance(path, DiffusionPath) else u
    sample = Sample(data.expand(b, *SHAPE), normal(2, b, *SHAPE), torch.ones(b), draws=normal(4, b, 2, *SHAPE))
    group = Group({"winner": sample}, {"blank": {"text": torch.zeros(b, 1, dtype=torch.float64)}}, t)
    moved = Descent(5, 25, "teacher", "blank")(group, path, space, predict)
    winner = moved.samples["winner"]
    torch.testing.assert_close(winner.latent, sample.latent, rtol=1e-9, atol=1e-9)
    assert winner.noise.mean() == pytest.approx(0, abs=0.03) and winner.noise.std() == pytest.approx(1, abs=0.03)
    end = 999 if isinstance(path, DiffusionPath) else 1
    reached = path.level(t) - 5 / 25  # about, since the grid lies up to a step above t
    assert (path.level(moved.t) > reached).all() and moved.t.max() <= end and moved.t.dtype == t.dtype
