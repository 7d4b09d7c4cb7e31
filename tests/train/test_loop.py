"""The loop: batches split anyhow, kills, divergence, finished runs; on the tiny model and the pairs it drew."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor
from trained import metrics_of, until, weights_of

from contrapose.backbones.families.table import load_backbone
from contrapose.core.links import Hinge
from contrapose.errors import UserError
from contrapose.files import aside_of
from contrapose.methods import DDSPO, SFT, DiffusionDPO
from contrapose.runs.folder import RunFolder
from contrapose.store.shard_files import read_shard, write_shard
from contrapose.train import loop
from contrapose.train.align import _accelerator, align
from contrapose.train.loop import Diverged, TrainState, learning_rate
from contrapose.train.settings import Optimisation, Run, Watching

pytestmark = pytest.mark.usefixtures("few_levels")

FAST = Optimisation(learning_rate=1e-3, train_steps=5, batch_size=4, micro_batch=4)
WATCH = Watching(holdout=2, evaluate_every=2, save_every=2)
UNWATCHED = Watching(holdout=0, evaluate_every=0, save_every=0, trackers=())
NO_PROCESS = 2**22 + 1  # beyond the largest number that Linux gives a process


@pytest.fixture(scope="module")
def run(tiny_model: Path, tiny_pairs: Path) -> Run:
    return Run(str(tiny_model), tiny_pairs, DDSPO(beta=200.0), optimisation=FAST, watching=WATCH)


@pytest.fixture(scope="module")
def whole(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That run from its start to its end, uninterrupted: look at it, and leave it as it is."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    list(align(run, folder))
    return folder


def _checkpoints(out: Path) -> list[str]:
    return sorted(path.name for path in (out / "checkpoints").iterdir())


def _same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(value, theirs[name]) for name, value in ours.items())


def _changed(run: Run, **changes: Any) -> Run:
    return replace(run, optimisation=replace(run.optimisation, **changes))


# How the batch is split


def test_accumulation_is_the_whole_batch(run: Run, tmp_path: Path) -> None:
    """A large epsilon, since AdamW otherwise turns the rounding of near-zero gradients into steps of full length."""
    results = []
    for size in (1, 8):
        changed = _changed(run, train_steps=3, batch_size=8, micro_batch=size, learning_rate=1e-2, epsilon=1e-2)
        list(align(replace(changed, lora_rank=4), tmp_path / str(size)))
        results.append((weights_of(tmp_path / str(size)), metrics_of(tmp_path / str(size))))
    (ours, our_lines), (theirs, their_lines) = results
    assert max(value.abs().max().item() for name, value in ours.items() if "lora_B" in name) > 1e-3  # it did train
    assert max((value - theirs[name]).abs().max().item() for name, value in ours.items()) < 1e-6
    for lines in (our_lines, their_lines):
        del lines[0]["accuracy"]  # before the first update every margin is zero but for rounding
    for a, b in zip(our_lines, their_lines, strict=True):
        assert a == pytest.approx(b, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("method", [DDSPO(), DDSPO(losers="random-positive"), DiffusionDPO(), SFT()], ids=str)
def test_batches_are_read_no_matter_how_they_are_split(run: Run, method: Any, tmp_path: Path) -> None:
    """The loss of the first step, before any update, is the same to rounding."""
    losses = []
    for size in (1, 2, 4):
        changed = replace(_changed(run, micro_batch=size, train_steps=1), method=method, watching=UNWATCHED)
        losses.append(list(align(changed, tmp_path / str(size)))[-1].metrics["loss"])
    assert losses[1:] == pytest.approx([losses[0]] * 2, rel=1e-5)


# Kills


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_killed_and_resumed_is_uninterrupted(run: Run, kind: str, tmp_path: Path) -> None:
    run = replace(_changed(run, ema_decay=0.9, warmup=2, schedule="cosine"), full=kind == "full")
    list(align(run, tmp_path / "whole"))
    for killed_after in (1, 3, 4):
        until(align(run, tmp_path / "cut"), killed_after)
        with (tmp_path / "cut/metrics.jsonl").open("a") as lines:
            lines.write('{"step": 9, "lo')  # the line that the kill cut short
        assert next(align(run, tmp_path / "cut")).step == killed_after // 2 * 2
    states = list(align(run, tmp_path / "cut"))
    assert states[-1].step == 5
    assert _same(weights_of(tmp_path / "cut"), weights_of(tmp_path / "whole"))
    assert metrics_of(tmp_path / "cut") == metrics_of(tmp_path / "whole")
    assert [line["step"] for line in metrics_of(tmp_path / "cut")] == [1, 2, 3, 4, 5]
    assert _checkpoints(tmp_path / "cut") == _checkpoints(tmp_path / "whole")


def test_half_a_checkpoint_is_not_resumed_from(run: Run, tmp_path: Path) -> None:
    until(align(run, tmp_path), 3)
    half = aside_of(tmp_path / "checkpoints/step-000004", NO_PROCESS)
    half.mkdir()
    (half / "pytorch_lora_weights.safetensors").write_bytes(b"half")
    assert next(align(run, tmp_path)).step == 2


def test_killed_between_the_last_step_and_the_end(run: Run, whole: Path, tmp_path: Path) -> None:
    until(align(run, tmp_path / "cut"), 5)
    assert not (tmp_path / "cut/finished.json").exists()
    assert [state.step for state in align(run, tmp_path / "cut")] == [5]
    assert _same(weights_of(tmp_path / "cut"), weights_of(whole))


def test_a_finished_run_does_nothing(run: Run, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    monkeypatch.setattr("contrapose.train.align._trainer", None)
    assert list(align(run, whole)) == [TrainState(5, {})]
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*")} == before


def test_checkpoints_are_pruned(run: Run, tmp_path: Path) -> None:
    list(align(replace(run, watching=Watching(save_every=1, keep=2)), tmp_path))
    assert _checkpoints(tmp_path) == ["step-000004", "step-000005"]


def test_every_0_steps_is_never(run: Run, whole: Path, tmp_path: Path) -> None:
    never = replace(run, watching=replace(WATCH, evaluate_every=0, save_every=0))
    until(align(never, tmp_path / "never"), 4)
    assert not (tmp_path / "never/checkpoints").exists()
    assert [state.step for state in align(never, tmp_path / "never")] == [0, 1, 2, 3, 4, 5]  # begun anew
    assert _checkpoints(tmp_path / "never") == ["step-000005"]
    assert [line["step"] for line in metrics_of(tmp_path / "never") if "held_out/loss" in line] == [1, 5]
    assert _same(weights_of(tmp_path / "never"), weights_of(whole))


def test_a_largest_norm_of_0_leaves_gradients_as_they_are(run: Run, tmp_path: Path) -> None:
    for most in (0.0, 1e9, 1e-3):
        list(align(_changed(run, max_grad_norm=most, epsilon=1e-2), tmp_path / str(most)))
    free, never_reached, scaled = (weights_of(tmp_path / str(most)) for most in (0.0, 1e9, 1e-3))
    assert _same(free, never_reached)
    assert not _same(free, scaled)
    assert metrics_of(tmp_path / "0.0") == metrics_of(tmp_path / "1000000000.0")  # the norm among them
    assert all(line["grad_norm"] > 0 for line in metrics_of(tmp_path / "0.0"))


def test_what_a_run_leaves(run: Run, whole: Path) -> None:
    finished = json.loads((whole / "finished.json").read_text())
    assert (finished["steps"], finished["training_pairs"], finished["held_out_pairs"]) == (5, 10, 2)
    assert finished["base_fingerprint"] == RunFolder(whole).fingerprint == load_backbone(run.model).fingerprint
    assert finished["trained_parameters"] == sum(value.numel() for value in weights_of(whole).values())
    assert list((whole / "tensorboard").iterdir())
    assert [line["step"] for line in metrics_of(whole) if "held_out/loss" in line] == [1, 2, 4, 5]


# Settings and pairs that do not fit


def test_other_settings_are_refused(run: Run, tmp_path: Path) -> None:
    until(align(run, tmp_path), 2)
    for changed, naming in (
        (_changed(run, train_steps=6, schedule="linear"), "optimisation.schedule"),
        (replace(run, method=DDSPO(beta=3.0)), "method.beta"),
        (replace(run, method=DDSPO(beta=200.0, link=Hinge())), "method.link.name"),
        (replace(run, full=True), "full"),
    ):
        with pytest.raises(UserError, match=naming):
            next(align(changed, tmp_path))


def test_settings_that_decide_nothing_may_change(run: Run, tmp_path: Path) -> None:
    until(align(run, tmp_path), 2)
    changed = replace(_changed(run, micro_batch=2), watching=replace(WATCH, save_every=1, keep=9))
    assert next(align(changed, tmp_path)).step == 2


def test_a_mistyped_model_or_folder_can_be_mended(run: Run, tmp_path: Path) -> None:
    for wrong in (replace(run, model="./nowhere"), replace(run, pairs=tmp_path / "nowhere")):
        with pytest.raises(UserError, match="nowhere"):
            next(align(wrong, tmp_path / "out"))
    assert next(align(run, tmp_path / "out")).step == 0


def _foreign(run: Run, folder: Path, **changes: Any) -> Run:
    shutil.copytree(run.pairs, folder)
    manifest = yaml.safe_load((folder / "pairs.yaml").read_text()) | changes
    (folder / "pairs.yaml").write_text(yaml.safe_dump(manifest))
    return replace(run, pairs=folder)


def test_pairs_of_another_model(run: Run, tmp_path: Path) -> None:
    foreign = _foreign(run, tmp_path / "pairs", fingerprint="another")
    with pytest.raises(UserError, match=r"drawn with another model \(another\).*--foreign-pairs"):
        next(align(foreign, tmp_path / "out"))
    assert list(align(replace(foreign, foreign_pairs=True), tmp_path / "out"))[-1].step == 5


def test_latents_of_another_shape_are_never_accepted(run: Run, tmp_path: Path) -> None:
    foreign = _foreign(run, tmp_path / "pairs")
    shard = sorted(foreign.pairs.glob("shard-*"))[0]
    records = read_shard(shard).records
    write_shard(foreign.pairs, 0, records, torch.zeros(len(records), 2, 5, 8, 8))
    with pytest.raises(UserError, match="do not fit"):
        next(align(replace(foreign, foreign_pairs=True), tmp_path / "out"))


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_pairs_drawn_in_one_precision_train_in_another(run: Run, kind: str, tmp_path: Path) -> None:
    """One process trains in both, though accelerate takes the first for all."""
    run = replace(_changed(run, train_steps=2), full=kind == "full")
    losses = []
    for precision in ("fp32", "bf16", "fp32"):
        states = list(align(replace(run, precision=precision), tmp_path / str(len(losses))))
        losses.append(states[-1].metrics["loss"])
    assert math.isfinite(losses[1]) and losses[0] == losses[2]


# Divergence


def test_nan_stops_before_the_step_and_keeps_the_checkpoint(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, of_batch = [], loop.of_batch

    def poisoned(outcome: Any, swapped: bool) -> dict[str, Tensor]:
        calls.append(outcome)
        return of_batch(outcome, swapped) | ({"loss": torch.tensor(float("nan"))} if len(calls) == 4 else {})

    monkeypatch.setattr(loop, "of_batch", poisoned)
    run = replace(run, watching=replace(WATCH, save_every=1))
    with pytest.raises(Diverged, match=r"diverged at step 4: loss not finite.*step-000003"):
        list(align(run, tmp_path))
    assert _checkpoints(tmp_path) == ["step-000002", "step-000003"]
    files = sorted((tmp_path / "checkpoints/step-000003").glob("*.safetensors"))
    assert [file.name for file in files] == ["pytorch_lora_weights.safetensors", "training.safetensors"]
    assert all(value.isfinite().all() for file in files for value in load_file(file).values())
    assert not (tmp_path / "finished.json").exists()


def test_nan_in_a_latent_is_caught(run: Run, tmp_path: Path) -> None:
    from contrapose.store.groups import GroupStore, stack
    from contrapose.store.shard_files import write_shard

    shutil.copytree(run.pairs, tmp_path / "pairs")
    store = GroupStore(run.pairs)
    latents = torch.stack([stack(store, sample, range(5)) for sample in (0, 1)], 1)
    latents[:, 1] = float("nan")
    write_shard(tmp_path / "pairs", 0, store.records[:5], latents)
    with pytest.raises(
        UserError, match=r"shard-00000\.safetensors: record .*: its loser holds values that are not finite"
    ):
        list(align(replace(run, pairs=tmp_path / "pairs"), tmp_path / "out"))


def test_drift_stops(run: Run, tmp_path: Path) -> None:
    run = replace(run, watching=replace(WATCH, max_drift=1e-12))
    with pytest.raises(Diverged, match=r"diverged at step 2: .*max_drift.*none yet"):
        list(align(run, tmp_path))


# Learning


@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize("method", [DDSPO(), DDSPO(losers="not-paired"), DiffusionDPO()], ids=str)
def test_a_comparison_starts_undecided(run: Run, method: Any, kind: str, tmp_path: Path) -> None:
    """Trainee and reference are equal: loss log 2, accuracy a half, no drift; but there is something to learn."""
    run = replace(_changed(run, train_steps=1), method=method, full=kind == "full")
    first = list(align(run, tmp_path))[1].metrics
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert (first["accuracy"], first["margin"], first["drift"]) == (0.5, 0.0, 0.0)
    assert first["grad_norm"] > 0


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_training_lowers_the_loss(run: Run, kind: str, tmp_path: Path) -> None:
    rate = 3e-3 if kind == "lora" else 3e-4
    run = replace(_changed(run, train_steps=20, learning_rate=rate, batch_size=5, micro_batch=5), full=kind == "full")
    metrics = [state.metrics for state in align(run, tmp_path)][1:]
    assert sum(m["loss"] for m in metrics[-5:]) / 5 < math.log(2) - 0.03
    assert sum(m["accuracy"] for m in metrics[-5:]) / 5 > 0.6
    assert metrics[-1]["drift"] > 0


def test_label_smoothing_of_one_half_teaches_nothing(run: Run, tmp_path: Path) -> None:
    """At the start its gradient is zero: winner and loser pull alike."""
    from contrapose.core.links import Sigmoid

    run = replace(_changed(run, train_steps=1), method=DDSPO(beta=200.0, link=Sigmoid(smoothing=0.5)))
    assert list(align(run, tmp_path))[1].metrics["grad_norm"] == pytest.approx(0.0, abs=1e-6)


def test_the_average_is_what_is_saved(run: Run, whole: Path, tmp_path: Path) -> None:
    list(align(_changed(run, ema_decay=0.9), tmp_path))
    plain, average = weights_of(whole), weights_of(tmp_path)
    assert not _same(plain, average)
    step = tmp_path / "checkpoints/step-000005"
    assert _same(average, weights_of(step))
    trainee = {k: v for k, v in load_file(step / "training.safetensors").items() if k.startswith("trainee/")}
    assert len(trainee) == len(average)
    sums = [sorted(value.sum().item() for value in weights.values()) for weights in (trainee, average, plain)]
    assert sums[0] == pytest.approx(sums[2], abs=1e-6), "the weights themselves go on as without an average"
    assert sums[0] != pytest.approx(sums[1], abs=1e-6)


def test_two_runs_are_one(run: Run, whole: Path, tmp_path: Path) -> None:
    torch.manual_seed(2)  # whatever the caller drew before
    list(align(run, tmp_path / "again"))
    assert _same(weights_of(tmp_path / "again"), weights_of(whole))
    list(align(replace(run, seed=1), tmp_path / "other"))
    assert not _same(weights_of(tmp_path / "other"), weights_of(whole))


def test_gradient_checkpointing_changes_nothing(run: Run, whole: Path, tmp_path: Path) -> None:
    list(align(replace(run, gradient_checkpointing=True), tmp_path))
    ours, theirs = weights_of(whole), weights_of(tmp_path)
    assert max((value - theirs[name]).abs().max().item() for name, value in ours.items()) < 1e-6


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("constant", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ("linear", [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]),
        ("cosine", [0.5, 1.0, 1.0, 0.5 + 0.5 * math.sqrt(0.5), 0.5, 0.5 - 0.5 * math.sqrt(0.5)]),
    ],
)
def test_schedules(schedule: Any, rates: list[float]) -> None:
    settings = Optimisation(learning_rate=1.0, schedule=schedule, warmup=2, train_steps=6)
    assert [learning_rate(settings, step) for step in range(6)] == pytest.approx(rates)


def test_a_variable_of_accelerate_scales_no_gradient(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an accelerate launch of DeepSpeed leaves it, or a user for other trainers."""
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    assert _accelerator(run).gradient_accumulation_steps == 1


def test_engines_of_accelerate_are_refused(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the file of `accelerate config` may name one for every launch."""
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(UserError, match="accelerate is told to train by DeepSpeed, which 'contrapose align' does not;"):
        next(align(run, tmp_path / "run"))
    assert not (tmp_path / "run").exists()
