"""Trackers: TensorBoard, and a stand-in for another service's package, which writes down what it is asked."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import tracking
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tracking import asked

from contrapose.cli.main import main
from contrapose.errors import UserError
from contrapose.methods import DDSPO
from contrapose.train.align import align
from contrapose.train.settings import Optimisation, Run, Watching

pytestmark = pytest.mark.usefixtures("few_levels")


@pytest.fixture
def wandb(tmp_path: Path) -> Iterator[Path]:
    with tracking.stand_in(tmp_path / "packages") as folder:
        yield folder


@pytest.fixture
def run(tiny_model: Path, tiny_pairs: Path) -> Run:
    steps = Optimisation(learning_rate=1e-3, train_steps=3, batch_size=2, micro_batch=2)
    watching = Watching(
        holdout=2, save_every=2, prompts=("a red circle",), images_every=2, image_steps=2,
        trackers=("tensorboard", "wandb"), project="foxes",
    )  # fmt: skip
    return Run(str(tiny_model), tiny_pairs, DDSPO(beta=200.0), optimisation=steps, watching=watching)


@pytest.mark.slow
def test_metrics_images_and_settings_reach_every_tracker(run: Run, wandb: Path, tmp_path: Path) -> None:
    list(align(run, tmp_path / "fox"))
    [begun] = asked(wandb, "init")
    assert (begun["project"], begun["name"]) == ("foxes", "fox")
    [config] = asked(wandb, "config")
    assert config["values"]["method.beta"] == 200 and config["values"]["watching.project"] == "foxes"
    sent = asked(wandb, "log")
    truth = {line["step"]: line for line in map(json.loads, (tmp_path / "fox/metrics.jsonl").open())}
    numbers = {entry["step"]: entry["values"] for entry in sent if "loss" in entry["values"]}
    assert {step: {"step": step, **values} for step, values in numbers.items()} == truth
    images = {entry["step"]: entry["values"] for entry in sent if "loss" not in entry["values"]}
    assert images == {step: {"images/00 a red circle (seed 0)": ["image (16, 16)"]} for step in (0, 2, 3)}
    board = EventAccumulator(str(tmp_path / "fox/tensorboard")).Reload()
    assert [event.value for event in board.Scalars("loss")] == pytest.approx([truth[n]["loss"] for n in (1, 2, 3)])
    assert [event.step for event in board.Images("images/00 a red circle (seed 0)")] == [0, 2, 3]
    [text] = board.Tensors("run.yaml/text_summary")
    assert b"train_steps: 3" in text.tensor_proto.string_val[0]


@pytest.mark.slow
def test_a_resumed_run_is_continued_without_a_step_twice(run: Run, wandb: Path, tmp_path: Path) -> None:
    """But for the one that was being sent, which is sent again with all of its images."""
    longer = replace(run, optimisation=replace(run.optimisation, train_steps=4))
    (wandb / "stop").write_text("4 loss")
    with pytest.raises(KeyboardInterrupt):
        list(align(longer, tmp_path / "fox"))
    list(align(longer, tmp_path / "fox"))
    list(align(replace(run, optimisation=replace(run.optimisation, train_steps=5)), tmp_path / "fox"))
    assert len({begun["id"] for begun in asked(wandb, "init")}) == 1
    assert [begun["resume"] for begun in asked(wandb, "init")] == ["allow"] * 3
    assert len(asked(wandb, "config")) == 1
    sent = asked(wandb, "log")
    assert [entry["step"] for entry in sent if "loss" in entry["values"]] == [1, 2, 3, 4, 4, 5]
    assert [entry["step"] for entry in sent if "loss" not in entry["values"]] == [0, 2, 4, 5]
    board = EventAccumulator(str(tmp_path / "fox/tensorboard")).Reload()
    assert sorted({event.step for event in board.Scalars("loss")}) == [1, 2, 3, 4, 5]


def test_what_is_not_installed_is_told_with_its_command(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "comet_ml", None)  # where it is installed
    settings = ["--model", run.model, "--pairs", str(run.pairs), "--out", str(tmp_path / "fox")]
    assert main(["align", "ddspo", *settings, "--trackers", "comet"]) == 2
    told = "trackers: comet is not installed; run 'pip install comet_ml', or leave it out"
    assert told in capsys.readouterr().err.strip().splitlines()[-1]
    assert not (tmp_path / "fox").exists()


@pytest.mark.slow
def test_a_service_that_does_not_start_is_one_line_and_one_that_fails_is_left_out(
    run: Run, wandb: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (wandb / "locked").touch()
    with pytest.raises(UserError, match=r"trackers: wandb does not start \(api_key not configured log in\); correct"):
        list(align(run, tmp_path / "fox"))
    (wandb / "locked").unlink()
    (wandb / "down").touch()
    assert [state.step for state in align(run, tmp_path / "fox")] == [0, 1, 2, 3]
    assert caplog.text.count("trackers: wandb fails and is left out (the service is down)") == 1
    assert asked(wandb, "finish") == []
