"""The policy's own samples: what a state is, when the lagged policy moves, and that a killed run is the same run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from trained import metrics_of, weights_of

from contrapose.errors import UserError
from contrapose.methods import DiffusionDRO, RealAlign
from contrapose.store.chosen_records import ChosenRecords
from contrapose.store.mixture import Mixture
from contrapose.store.record_table import RecordTable
from contrapose.train.align import _backbone, _trainer, align
from contrapose.train.loop import Trainer
from contrapose.train.replay import Replay, Rollout
from contrapose.train.settings import Optimisation, Run, Watching
from contrapose.train.stages import stages

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("few_levels")]

METHOD = DiffusionDRO(rollout_steps=3, states=2, rollouts=2, buffer=3, sync_every=2)
FAST = Optimisation(learning_rate=1e-2, train_steps=5, batch_size=4, micro_batch=4)
WATCH = Watching(holdout=2, evaluate_every=2, save_every=2)


@pytest.fixture(params=["lora", "full"])
def run(request: pytest.FixtureRequest, tiny_model: Path, tiny_pairs: Path) -> Run:
    return Run(
        str(tiny_model), tiny_pairs, METHOD, full=request.param == "full", optimisation=FAST, watching=WATCH,
        caption_dropout=0.3,
    )  # fmt: skip


def _trainer_of(run: Run, out: Path) -> Trainer:
    stage = stages(run.resolved(), out)[-1]
    accelerator = Accelerator()
    return _trainer(stage, Mixture(run.pairs), accelerator, _backbone(stage.run, accelerator), None)


def test_a_state_is_what_the_policy_predicted_where_it_passed(run: Run, tmp_path: Path) -> None:
    trainer = _trainer_of(replace(run, caption_dropout=0.0), tmp_path)
    groups, cpu = trainer.groups, torch.device("cpu")
    trainer.rollouts.draw(0)
    group = groups.training_batch(range(6), cpu)
    own = group.samples["own"]
    assert not torch.equal(own.noise, group.samples["winner"].noise), "each sample has its own"
    x_t = groups.path.add_noise(own.latent, own.noise, group.t)
    again = trainer.trainable.predict("lagged", x_t, group.t, group.prompts["prompt"])
    torch.testing.assert_close(again, own.noise, atol=2e-4, rtol=1e-3)
    assert len({int(t) for t in group.t}) > 1


def test_the_real_image_is_of_the_same_prompt_as_the_own_sample(run: Run, tmp_path: Path) -> None:
    trainer = _trainer_of(run, tmp_path)
    trainer.rollouts.draw(0)
    records = [groups_record for groups_record, _ in (trainer.groups._place(p) for p in range(8))]
    group = trainer.groups.training_batch(range(8), torch.device("cpu"))
    winners = torch.stack([trainer.groups.store.latent("winner", r) for r in records]).float()
    assert torch.equal(group.samples["winner"].latent, winners)
    assert set(records) <= {rollout.record for rollout in trainer.groups.replay.rollouts}


def test_the_photograph_is_better_whatever_it_was_stored_with(run: Run, tmp_path: Path) -> None:
    trainer = _trainer_of(run, tmp_path)
    trainer.rollouts.draw(0)
    store = trainer.groups.store
    tied = [replace(record, labels=(0.5, 0.5)) for record in store.records]
    store.records = ChosenRecords([RecordTable.holding(tied)], np.arange(len(tied)))
    samples = trainer.groups.training_batch(range(3), torch.device("cpu")).samples
    assert {name: sample.label.tolist() for name, sample in samples.items()} == {"winner": [1.0] * 3, "own": [0.0] * 3}


def test_at_the_start_the_loss_is_the_margin(run: Run, tmp_path: Path) -> None:
    """Trainee and reference explain both samples alike."""
    states = list(align(replace(run, optimisation=replace(FAST, train_steps=1)), tmp_path))
    assert states[-1].metrics["loss"] == pytest.approx(METHOD.real_margin, rel=1e-3)


def test_the_lagged_policy_is_the_trainee_as_it_last_was_when_synced(run: Run, tmp_path: Path) -> None:
    trainer = _trainer_of(run, tmp_path)
    seen = []
    for _ in trainer.steps():
        lagged = trainer.trainable.policies.frozen_parameters("lagged")
        seen.append(([p.clone() for p in lagged], [p.detach().clone() for p in trainer.parameters]))

    def same(a, b):
        return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))

    lagged, trainee = zip(*seen, strict=True)  # after steps 1 to 5; synced before steps 3 and 5
    assert same(lagged[0], lagged[1]) and not same(lagged[1], trainee[1])
    assert same(lagged[2], trainee[1]) and same(lagged[3], trainee[1])
    assert same(lagged[4], trainee[3])


def test_the_buffer_keeps_the_latest(run: Run, tmp_path: Path) -> None:
    trainer = _trainer_of(run, tmp_path)
    trainer.rollouts.draw(0)
    first = list(trainer.groups.replay.rollouts)
    trainer.rollouts.draw(1)
    now = trainer.groups.replay.rollouts
    assert len(first) == 2 and len(now) == METHOD.buffer and now[0] is first[1]


@pytest.mark.parametrize("kill", [2, 3])
def test_a_killed_run_ends_the_same(run: Run, tmp_path: Path, kill: int) -> None:
    """The buffer and the lagged policy come back with the checkpoint; step 3's rollouts are from before it."""
    list(align(run, tmp_path / "whole"))
    states = align(run, tmp_path / "killed")
    for state in states:
        if state.step == kill:
            break
    states.close()
    resumed = list(align(run, tmp_path / "killed"))
    assert resumed[0].step == 2
    ours, theirs = weights_of(tmp_path / "killed"), weights_of(tmp_path / "whole")
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert metrics_of(tmp_path / "killed") == metrics_of(tmp_path / "whole")


def test_micro_batches_change_nothing(run: Run, tmp_path: Path) -> None:
    lines = []
    for size in (1, 4):
        changed = replace(
            run, optimisation=replace(FAST, micro_batch=size, train_steps=3, learning_rate=1e-3, epsilon=1e-2)
        )
        list(align(changed, tmp_path / str(size)))
        lines.append([line["loss"] for line in metrics_of(tmp_path / str(size))])
    assert lines[0] == pytest.approx(lines[1], rel=1e-2)


@pytest.mark.parametrize("sync_every", [1, 2])
def test_renoised_samples_are_noised_like_the_real_ones(run: Run, tmp_path: Path, sync_every: int) -> None:
    method = replace(METHOD, samples="renoised", sync_every=sync_every)
    trainer = _trainer_of(replace(run, method=method), tmp_path)
    trainer.rollouts.draw(0)
    samples = trainer.groups.training_batch(range(4), torch.device("cpu")).samples
    assert samples["own"].noise is samples["winner"].noise, "shared"
    assert len(list(align(replace(run, method=method), tmp_path / "out"))) == FAST.train_steps + 1


def test_a_replay_buffer_comes_back_whole() -> None:
    replay, other = Replay(3), Replay(3)
    new = [
        Rollout(i, i == 1, torch.arange(2) + i, torch.randn(2, 4, 3, i + 1), torch.randn(2, 4, 3, i + 1))
        for i in range(4)
    ]
    replay.add(new)
    other.load(replay.state())
    assert [rollout.record for rollout in other.rollouts] == [1, 2, 3]
    for ours, theirs in zip(replay.rollouts, other.rollouts, strict=True):
        assert ours.blank == theirs.blank
        assert all(torch.equal(getattr(ours, name), getattr(theirs, name)) for name in ("t", "x0", "eps"))


def test_winner_and_own_sample_cannot_be_swapped(tiny_model: Path, tiny_pairs: Path) -> None:
    with pytest.raises(UserError, match="swap"):
        Run(str(tiny_model), tiny_pairs, METHOD, swap=True)


def test_states_keep_the_times_of_their_trajectories() -> None:
    """No density of times is theirs; renoised samples have one, and so has what begins with a trajectory's states."""
    run = Run("a model", Path("pairs"), RealAlign(), time_density="linear")
    first, last = (stage.run for stage in stages(run, Path("out")))
    assert (first.time_density, last.time_density) == (None, "linear")
    renoised = replace(run, method=RealAlign(stage1=DiffusionDRO(samples="renoised")))
    assert [stage.run.time_density for stage in stages(renoised, Path("out"))] == ["linear", "linear"]
    with pytest.raises(UserError, match="time_density: diffusion-dro as it is set learns at the times of its own"):
        replace(run, method=METHOD)
