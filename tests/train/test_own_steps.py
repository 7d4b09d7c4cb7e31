"""Steps that the model takes itself while it trains: from one state or two, judged, kept, and the same after a kill."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.distributions import Normal
from trained import check_killed_ends_the_same, metrics_of

from contrapose.core.group import REWARD, Group
from contrapose.core.path import per_sample
from contrapose.core.transitions import ddim_step
from contrapose.errors import UserError
from contrapose.judges.colours import Colours
from contrapose.methods import D3PO, SPO, TailorPO
from contrapose.methods.method import AlignmentMethod
from contrapose.methods.own_steps import StepSampling
from contrapose.seeds import generator, starting_noise
from contrapose.store.mixture import Mixture
from contrapose.train.align import _backbone, _trainer, align
from contrapose.train.comparable import comparable
from contrapose.train.judging import RolloutJudging
from contrapose.train.loop import Trainer
from contrapose.train.settings import Optimisation, Run, Watching
from contrapose.train.stages import stages

pytestmark = pytest.mark.slow

SAMPLING = StepSampling(prompts_per_draw=3, sync_every=2, buffer=7, rollout_steps=4, rollout_guidance_scale=3.0)
SINGLE = replace(SAMPLING, rollout_guidance_scale=1.0)
METHODS: dict[str, AlignmentMethod] = {
    "spo": SPO(beta=2.0, clip=0.9, candidates=3, first_fork=1, tie_margin=0.0, sampling=SAMPLING),
    "tailorpo": TailorPO(beta=2.0, sampling=SINGLE),
    "d3po": D3PO(beta=2.0, clip=0.9, sampling=SAMPLING),
}
FAST = Optimisation(learning_rate=1e-2, train_steps=5, batch_size=4, micro_batch=4)
CPU = torch.device("cpu")
each_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


def run_of(model: Path, prompts: Path, method: AlignmentMethod, **settings: object) -> Run:
    watching = Watching(save_every=1, keep=9)
    run = Run(str(model), prompts, method, optimisation=FAST, watching=watching, judging=RolloutJudging((Colours(),)))
    return replace(run, **settings)


def trainer_of(run: Run, out: Path) -> Trainer:
    stage = stages(run.resolved(), out)[-1]
    accelerator = Accelerator()
    pairs = comparable(Mixture(run.pairs), run)
    return _trainer(stage, pairs, accelerator, _backbone(stage.run, accelerator), None)


def distribution(trainer: Trainer, policy: str, group: Group, name: str) -> tuple[Normal, Tensor]:
    """What a policy's steps from a sample's states are drawn from, written out, and where they led."""
    path = trainer.groups.path
    num_steps = SAMPLING.rollout_steps
    grid = path.times(torch.arange(num_steps, 0, -1) / num_steps)
    after = torch.stack([grid[grid.tolist().index(int(t)) + 1] for t in group.t])
    step = ddim_step(path, group.t, after, 1.0)
    sample = group.samples[name]
    x_t = path.add_noise(sample.latent, sample.noise, group.t)
    scale = trainer.run.method.sampling.rollout_guidance_scale
    with torch.no_grad():
        eps = trainer.trainable.predict(policy, x_t, group.t, group.prompts["prompt"])
        if scale != 1:
            blank = trainer.trainable.predict(policy, x_t, group.t, group.prompts["blank"])
            eps = blank + scale * (eps - blank)
    mean = step.mean(path.convert(eps, x_t, group.t, "eps", "x0"), eps)
    return Normal(mean, per_sample(step.deviation, mean)), step.mean(sample.latent, sample.noise)


@each_method
def test_groups_are_steps_that_the_policy_took(method, tiny_model: Path, prompts_file: Path, tmp_path: Path) -> None:
    """A state is one of the trajectory; winner and loser are draws of its step, and the first state is pure noise."""
    trainer = trainer_of(run_of(tiny_model, prompts_file, method), tmp_path)
    told = trainer.rollouts.draw(0)
    drawn = trainer.groups.drawn
    num_steps = 3 if method.composition().own_groups.first_fork in (None, 0) else 2
    assert [group.number for group in drawn.groups] == sorted([0, 1, 2] * num_steps)[-7:], "the latest seven"
    assert told["rollouts/spread"] > 0 and told["rollouts/tied"] == 0
    num = len(drawn.groups)
    order = [drawn.index_at(position) for position in range(num)]
    group = trainer.groups.training_batch(range(num), CPU)
    winner, loser = group.samples["winner"], group.samples["loser"]
    assert torch.equal(group.t, torch.stack([drawn.groups[index].step.t for index in order]))
    assert (winner.scores[REWARD] > loser.scores[REWARD]).all()
    assert winner.label.tolist() == [1.0] * num and loser.label.tolist() == [0.0] * num
    path = trainer.groups.path
    states = [path.add_noise(sample.latent, sample.noise, group.t) for sample in (winner, loser)]
    share_state = torch.isclose(states[0], states[1], atol=1e-3).flatten(1).all(1)
    is_first = group.t == group.t.max()
    for name in group.samples:
        density, x_after = distribution(trainer, "trainee", group, name)
        drawn_noise = (x_after - density.mean) / density.stddev
        assert float(drawn_noise.std()) == pytest.approx(1, abs=0.1)
    assert share_state.tolist() == (is_first.tolist() if isinstance(method, D3PO) else [True] * num)
    if isinstance(method, SPO):
        return  # whose first step has no candidates
    for index in order:
        if int(drawn.groups[index].step.t) == int(group.t.max()):
            [noise] = starting_noise(
                [generator(trainer.run.seed, "own steps", drawn.groups[index].number)], trainer.rollouts.shape
            )
            torch.testing.assert_close(states[0][order.index(index)], noise, atol=1e-4, rtol=1e-4)


@each_method
def test_the_reward_is_the_logarithm_of_the_ratio_of_densities(
    method, tiny_model: Path, prompts_file: Path, tmp_path: Path
) -> None:
    """After some steps of training, with the step's mean and deviation written out."""
    run = run_of(tiny_model, prompts_file, method)
    trainer = trainer_of(run, tmp_path)
    states = trainer.steps()
    for _ in range(2):
        next(states)
    states.close()
    group = trainer.groups.training_batch(range(8, 12), CPU)
    measured = trainer._outcome(group).measured
    for place, name in enumerate(("winner", "loser")):
        of_policy = [distribution(trainer, policy, group, name) for policy in ("trainee", "reference")]
        logs = [density.log_prob(x_after).flatten(1).mean(1) for density, x_after in of_policy]
        expected = logs[0] - logs[1]
        assert expected.abs().max() > 1e-4
        torch.testing.assert_close(measured.rewards[:, place], expected, rtol=2e-2, atol=2e-4)


@each_method
def test_at_the_start_the_loss_is_log_two(method, tiny_model: Path, prompts_file: Path, tmp_path: Path) -> None:
    run = run_of(tiny_model, prompts_file, method, optimisation=replace(FAST, train_steps=1))
    states = list(align(run, tmp_path))
    assert states[-1].metrics["loss"] == pytest.approx(math.log(2), rel=1e-5)


@pytest.mark.parametrize("swap", [False, True])
def test_samples_move_to_what_the_judge_likes(swap: bool, tiny_model: Path, prompts_file: Path, tmp_path: Path) -> None:
    """Colourfulness, of 8 prompts at each of 7 draws; or away from it, where preferences are exchanged."""
    sampling = StepSampling(prompts_per_draw=8, sync_every=2, buffer=64, rollout_steps=6, rollout_guidance_scale=1.0)
    method = SPO(clip=0.9, first_fork=1, tie_margin=0.0, sampling=sampling)
    optimisation = Optimisation(learning_rate=3e-3, train_steps=14, batch_size=16, micro_batch=16)
    run = run_of(tiny_model, prompts_file, method, full=True, swap=swap, optimisation=optimisation)
    list(align(run, tmp_path))
    rewards = [line["rollouts/reward"] for line in metrics_of(tmp_path) if "rollouts/reward" in line]
    assert len(rewards) == 7
    gain = sum(rewards[-3:]) / 3 - rewards[0]
    assert gain < -1 if swap else gain > 1


KILLED = [("spo", False, 2), ("spo", True, 3), ("tailorpo", False, 3), ("d3po", False, 2)]


@pytest.mark.parametrize(("name", "full", "kill"), KILLED)
def test_a_killed_run_ends_the_same(
    name: str, full: bool, kill: int, tiny_model: Path, prompts_file: Path, tmp_path: Path
) -> None:
    """Killed at a draw and between two: steps come back with their noise and time."""
    run = run_of(tiny_model, prompts_file, METHODS[name], full=full)
    check_killed_ends_the_same(run, tmp_path, kill)


@each_method
def test_micro_batches_change_nothing(method, tiny_model: Path, prompts_file: Path, tmp_path: Path) -> None:
    lines = []
    for size in (1, 4):
        optimisation = replace(FAST, micro_batch=size, train_steps=3, learning_rate=1e-3, epsilon=1e-2)
        list(align(run_of(tiny_model, prompts_file, method, optimisation=optimisation), tmp_path / str(size)))
        lines.append([line["loss"] for line in metrics_of(tmp_path / str(size))])
    assert lines[0] == pytest.approx(lines[1], rel=1e-3)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"caption_dropout": 0.1}, "caption_dropout"),
        ({"time_density": "linear"}, "time_density"),
        ({"time_draws": "spread"}, "time_draws"),
    ],
)
def test_settings_of_other_times_and_prompts_are_refused(settings, said, tiny_model: Path, prompts_file: Path) -> None:
    with pytest.raises(UserError, match=said):
        run_of(tiny_model, prompts_file, METHODS["spo"], **settings)


def test_steps_that_the_buffer_does_not_keep_are_told_once(
    tiny_model: Path, prompts_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = trainer_of(run_of(tiny_model, prompts_file, METHODS["d3po"]), tmp_path / "out")
    assert trainer.rollouts is not None
    for step in (0, 2):
        trainer.rollouts.draw(step)
    [line] = [message for message in caplog.messages if "for nothing" in message]
    assert line.startswith("of the 9 groups of a draw the latest 7 are kept (buffer)")


def test_a_margin_that_no_step_passes_is_told(tiny_model: Path, prompts_file: Path, tmp_path: Path) -> None:
    method = replace(METHODS["spo"], tie_margin=1e6)
    with pytest.raises(UserError, match="any of 6 steps; draw more --prompts-per-draw, or set another judge"):
        list(align(run_of(tiny_model, prompts_file, method), tmp_path / "out"))
    assert not (tmp_path / "out").exists()
