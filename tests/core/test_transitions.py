"""Steps of a sampler as samples: against diffusers' scheduler, the densities written out, and the authors' losses."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from comparing import B, Net, Policies, gradient, relative_error
from torch import Tensor
from torch.distributions import Normal

from contrapose.core.choices import Space
from contrapose.core.group import Group, Sample
from contrapose.core.links import Clipped
from contrapose.core.objective import GuidedRows, Objective, Side
from contrapose.core.path import DiffusionPath, FlowPath, Path, per_sample, shifted_table
from contrapose.core.transitions import Fork, Step, ddim_step, forks, implied, reward_scale

ABAR = (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64).square()).cumprod(0)
SD = DiffusionPath(ABAR)
FLOW = FlowPath()
WHOLE_TIMES = (torch.tensor([981, 501, 51]), torch.tensor([931, 451, 1]))
SHARES = (torch.tensor([1.0, 0.6, 0.1], dtype=torch.float64), torch.tensor([0.9, 0.5, 0.05], dtype=torch.float64))
SHAPE = (4, 2, 2)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def sde_step(path: Path, t: Tensor, after: Tensor, strength: float) -> Step:
    """Flow-GRPO's (arXiv 2505.05470, eq. 9), told by data and noise; sqrt(t / (1 - t)) at the next time from t = 1."""
    dt = after - t
    at_most = torch.where(t == 1, after, t)
    spread = strength * (at_most / (1 - at_most)).sqrt()
    return Step(1 - after, after + spread.square() * dt / (2 * t), spread * (-dt).sqrt())


def ddim(eta: float):
    return lambda path, t, after: ddim_step(path, t, after, eta)


STEPS = {
    "DDIM on SD": (ddim(1.0), SD, WHOLE_TIMES, "eps"),
    "DDIM on SD, eta 0.3": (ddim(0.3), SD, WHOLE_TIMES, "eps"),
    "DDIM on SD, v": (ddim(1.0), SD, WHOLE_TIMES, "v"),
    "DDIM on SD, x0": (ddim(0.7), SD, WHOLE_TIMES, "x0"),
    "DDIM on a flow": (ddim(1.0), FLOW, SHARES, "velocity"),
    "DDIM on a flow, eta 0.3": (ddim(0.3), FLOW, SHARES, "velocity"),
    "Flow-GRPO's SDE": (lambda *where: sde_step(*where, strength=0.7), FLOW, SHARES, "velocity"),
}
each_step = pytest.mark.parametrize(("kind", "path", "times", "space"), STEPS.values(), ids=STEPS)


@pytest.mark.parametrize(("space", "kind"), [("eps", "epsilon"), ("v", "v_prediction"), ("x0", "sample")])
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_steps_are_those_of_diffusers(space: Space, kind: str, eta: float) -> None:
    from diffusers import DDIMScheduler

    theirs = DDIMScheduler(
        1000, 0.00085, 0.012, "scaled_linear", clip_sample=False, set_alpha_to_one=False, prediction_type=kind
    )
    theirs.alphas_cumprod = ABAR
    theirs.set_timesteps(20)
    x, prediction, z = normal(0, 1, *SHAPE), normal(1, 1, *SHAPE), normal(2, 1, *SHAPE)
    for now in (950, 500, 50):
        t, after = torch.tensor([now]), torch.tensor([now - 50])
        step = ddim_step(SD, t, after, eta)
        mean = step.mean(SD.convert(prediction, x, t, space, "x0"), SD.convert(prediction, x, t, space, "eps"))
        expected = theirs.step(prediction, now, x, eta=eta, variance_noise=z).prev_sample
        torch.testing.assert_close(mean + per_sample(step.deviation, x) * z, expected, rtol=1e-11, atol=1e-11)


def test_flow_grpos_step_is_their_formula() -> None:
    t, after = SHARES
    x, v = normal(0, 3, *SHAPE), normal(1, 3, *SHAPE)
    dt = per_sample(after - t, x)
    sigma = per_sample(t, x)
    at_most = torch.where(sigma == 1, per_sample(after, x), sigma)
    std = 0.7 * (at_most / (1 - at_most)).sqrt()
    expected = x * (1 + std**2 / (2 * sigma) * dt) + v * (1 + std**2 * (1 - sigma) / (2 * sigma)) * dt
    step = sde_step(FLOW, t, after, 0.7)
    x0, eps = (FLOW.convert(v, x, t, "velocity", to) for to in ("x0", "eps"))
    torch.testing.assert_close(step.mean(x0, eps), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(per_sample(step.deviation, x), std * (-dt).sqrt(), rtol=1e-12, atol=0)


def test_scales_on_stable_diffusion() -> None:
    """DDIM, eta 1, 20 steps."""
    t = torch.tensor([981, 801, 601, 401, 201, 101])
    scales = reward_scale(SD, ddim_step(SD, t, t - 50, 1.0), t, "eps")
    assert scales.tolist() == pytest.approx([0.770, 0.556, 0.421, 0.391, 0.569, 1.302], abs=6e-4)


@each_step
def test_what_a_step_implies_is_the_state_that_it_left_and_the_mean_that_it_met(kind, path, times, space) -> None:
    t, after = times
    x, x_after = normal(0, 3, *SHAPE), normal(1, 3, *SHAPE)
    step = kind(path, t, after)
    x0, eps = implied(path, step, t, x, x_after)
    torch.testing.assert_close(path.add_noise(x0, eps, t), x, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(step.mean(x0, eps), x_after, rtol=1e-9, atol=1e-9)


def log_ratios(
    path: Path, step: Step, t: Tensor, space: Space, x: Tensor, x_after: Tensor, ours: Tensor, theirs: Tensor
):
    """Mean over elements of log q_ours(x' | x_t) - log q_theirs(x' | x_t)."""
    densities = []
    for prediction in (ours, theirs):
        x0, eps = (path.convert(prediction, x, t, space, to) for to in ("x0", "eps"))
        of_step = Normal(step.mean(x0, eps), per_sample(step.deviation, x))
        densities.append(of_step.log_prob(x_after).flatten(1).mean(1))
    return densities[0] - densities[1]


def policies(distance: float) -> Policies:
    """A trainee near its reference, or all ratios would be beyond the clip."""
    nets = Policies(trainee=Net(5).double(), reference=Net(0).double())
    with torch.no_grad():
        for ours, theirs in zip(nets.nets["trainee"].parameters(), nets.nets["reference"].parameters(), strict=True):
            ours.copy_(theirs + distance * (ours - theirs))
    return nets


def answer_of(net: Net, x: Tensor, t: Tensor, prompts: dict[str, dict[str, Tensor]], scale: float | None) -> Tensor:
    """A prediction, guided where there is a scale."""
    slots = [net(x, t, prompts[slot]) for slot in ("prompt", "blank")]
    return slots[0] if scale is None else slots[1] + scale * (slots[0] - slots[1])


def transition(kind, path: Path, times: tuple[Tensor, Tensor], space: Space, shares_state: bool, scale: float | None):
    """A winner and a loser, from one state or from two: the group, and their states before and after the step."""
    t, after = times
    step = kind(path, t, after)
    x = {"winner": normal(0, B, *SHAPE)}
    x["loser"] = x["winner"] if shares_state else normal(1, B, *SHAPE)
    x_after, samples = {}, {}
    prompts = {slot: {"embedding": normal(seed, B, 8)} for slot, seed in (("prompt", 6), ("blank", 7))}
    reference = Net(0).double()
    for seed, name in enumerate(x, 2):
        prediction = answer_of(reference, x[name], t, prompts, scale).detach()
        x0, eps = (path.convert(prediction, x[name], t, space, to) for to in ("x0", "eps"))
        x_after[name] = step.mean(x0, eps) + per_sample(step.deviation, x0) * normal(seed, B, *SHAPE)
        label = torch.full((B,), float(name == "winner"), dtype=torch.float64)
        samples[name] = Sample(*implied(path, step, t, x[name], x_after[name]), label)
    group = Group(samples, prompts, t, reward_scale=reward_scale(path, step, t, space))
    return group, step, x, x_after


@each_step
def test_the_reward_of_a_step_is_the_logarithm_of_its_ratio_of_densities(kind, path, times, space) -> None:
    """In whichever space errors are measured, by the scale of that space."""
    group, step, x, x_after = transition(kind, path, times, space, shares_state=False, scale=None)
    nets = policies(0.3)
    expected = []
    for name in x:
        answers = [nets.nets[policy](x[name], group.t, group.prompts["prompt"]) for policy in ("trainee", "reference")]
        expected.append(log_ratios(path, step, group.t, space, x[name], x_after[name], *answers).detach())
    spaces: tuple[Space, ...] = ("velocity",) if path is FLOW else ("eps", "v", "x0")
    for measure in spaces:
        scaled = replace(group, reward_scale=reward_scale(path, step, group.t, measure))
        objective = Objective((Side("winner"), Side("loser")), Clipped(), beta=1.0, space=measure)
        rewards = objective(scaled, path, space, nets).measured.rewards
        torch.testing.assert_close(rewards, torch.stack(expected, 1), rtol=1e-9, atol=1e-12)


@each_step
@pytest.mark.parametrize("scale", [None, 5.0])
@pytest.mark.parametrize("shares_state", [True, False])
@pytest.mark.parametrize("clip", [0.1, None])
def test_losses_and_gradients_are_those_of_spo_and_d3po(kind, path, times, space, scale, shares_state, clip) -> None:
    """Their code: -log sigmoid(B (log clip(ratio_w) - log clip(ratio_l))), of predictions that guidance combines."""
    group, step, x, x_after = transition(kind, path, times, space, shares_state, scale)
    nets = policies(0.02 if scale is None else 0.005)
    logs = []
    for name in x:
        ours, theirs = (
            answer_of(nets.nets[policy], x[name], group.t, group.prompts, scale) for policy in ("trainee", "reference")
        )
        ratio = log_ratios(path, step, group.t, space, x[name], x_after[name], ours, theirs.detach()).exp()
        logs.append((ratio if clip is None else ratio.clamp(1 - clip, 1 + clip)).log())
    expected = -torch.sigmoid(10.0 * (logs[0] - logs[1])).log()
    expected.sum().backward()
    net = nets.nets["trainee"]
    slopes = [parameter.grad.clone() for parameter in net.parameters()]
    nets.nets["reference"].zero_grad()
    net.zero_grad()
    sides = (Side("winner"), Side("loser", state="winner" if shares_state else None))
    guided = None if scale is None else GuidedRows(scale)
    rows = B if scale is None else 2 * B
    for split in (False, True):
        nets.calls.clear()
        objective = Objective(sides, Clipped(10.0, clip), beta=1.0, split=split, guided=guided)
        outcome = objective(group, path, space, nets)
        torch.testing.assert_close(outcome.loss.detach(), expected.detach(), rtol=1e-9, atol=1e-12)
        assert relative_error(gradient(outcome, net), slopes) <= 1e-9
        asked = [(policy, num_rows) for policy, num_rows, recorded in nets.calls if policy == "reference" or recorded]
        if shares_state:
            assert asked == [("reference", rows), ("trainee", rows)], "one prediction for both sides"
        else:
            parts = [("trainee", rows), ("trainee", rows)] if split else [("trainee", 2 * rows)]
            assert asked == [("reference", 2 * rows), *parts]


def test_what_has_gone_beyond_the_clip_has_no_slope() -> None:
    from comparing import measured

    rewards = torch.tensor([[0.05, 0.0], [0.2, 0.0], [0.0, -0.2], [0.2, -0.2]], requires_grad=True)
    labels = torch.tensor([[1.0, 0.0]]).repeat(4, 1)
    Clipped()(measured(rewards, labels)).sum().backward()
    assert (rewards.grad != 0).tolist() == [[True, True], [False, True], [True, False], [False, False]]


def test_a_prediction_without_a_prompt_is_guided_by_nothing() -> None:
    side = Side("winner", slot="blank")
    assert GuidedRows(5.0).shares(side.row) == {side.row: 1.0}


def predicted_on(path: Path, space: Space):
    def predicted(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        prediction = torch.tanh(0.7 * x + per_sample(path.level(t).double(), x))
        return path.convert(prediction, x, t, space, "x0"), path.convert(prediction, x, t, space, "eps")

    return predicted


def forked(path: Path, space: Space, rows: list[int], widths: list[int], calls: list[int] | None = None) -> list[Fork]:
    """Forks of trajectories that each have a random stream."""
    streams = [torch.Generator().manual_seed(100 + row) for row in rows]
    times = path.times(torch.linspace(1, 0.2, len(widths) + 1, dtype=torch.float64)[:, None].repeat(1, len(rows)))
    noise = torch.stack([torch.randn(SHAPE, generator=stream, dtype=torch.float64) for stream in streams])
    answer = predicted_on(path, space)

    def predicted(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        if calls is not None:
            calls.append(len(x))
        return answer(x, t)

    def draw(width: int) -> Tensor:
        drawn = [torch.randn((width, *SHAPE), generator=stream, dtype=torch.float64) for stream in streams]
        return torch.stack(drawn)

    def choose(width: int) -> Tensor:
        return torch.stack([torch.randint(width, (), generator=stream) for stream in streams])

    return list(forks(path, times, noise, predicted, 1.0, widths, draw, choose))


PATHS = [(SD, "eps"), (FLOW, "velocity"), (FlowPath(table=shifted_table(3.0).double()), "velocity")]


@pytest.mark.parametrize(("path", "space"), PATHS)
def test_one_candidate_goes_on_and_is_predicted_once(path: Path, space: Space) -> None:
    calls: list[int] = []
    widths = [1, 3, 1, 2]
    trajectory = forked(path, space, [0, 1], widths, calls)
    assert calls == [2, *(2 * width for width in widths)]
    for before, fork in pairwise(trajectory):
        met = (before.candidates == fork.x_t[:, None]).flatten(2).all(2)
        assert met.sum(1).tolist() == [1, 1], "one of the candidates"
        assert torch.equal(before.after, fork.t)
    for fork in trajectory:
        for place in range(fork.candidates.shape[1]):
            x0, _ = predicted_on(path, space)(fork.candidates[:, place], fork.after)
            torch.testing.assert_close(fork.x0[:, place], x0, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("path", "space"), PATHS)
def test_candidates_are_draws_of_the_step(path: Path, space: Space) -> None:
    """Their distance from the mean is of its deviation."""
    fork = forked(path, space, list(range(40)), [1, 8])[1]
    step = fork.step
    mean = step.mean(*predicted_on(path, space)(fork.x_t, fork.t))
    apart = (fork.candidates - mean[:, None]) / per_sample(step.deviation, mean)[:, None]
    assert abs(float(apart.mean())) < 0.05 and float(apart.std()) == pytest.approx(1, abs=0.03)


def test_trajectories_do_not_depend_on_those_beside_them() -> None:
    together = forked(SD, "eps", [0, 1, 2], [1, 3, 2])
    for row in range(3):
        for fork, alone in zip(together, forked(SD, "eps", [row], [1, 3, 2]), strict=True):
            torch.testing.assert_close(fork.candidates[row], alone.candidates[0], rtol=1e-12, atol=1e-12)
