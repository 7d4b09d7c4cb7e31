"""A whole study on a tiny model: two methods, two seeds, a choice on dev prompts, its plan, and kills in between."""

from __future__ import annotations

import io
import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import yaml

from contrapose.cli.main import main

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("undrawn")]

STUDY = """
version: 1
title: A study
model: model
out: out
prompts:
  train: {shapes: train, per_tag: 1}
  dev: {shapes: dev, per_tag: 1, num_images: 1}
  test: {shapes: test, per_tag: 1}
pairs:
  drawn: {options: {steps: 1, batch-size: 2, shard-size: 3, device: cpu}}
methods:
  dpo: {align: diffusion-dpo, options: {beta: 1000}}
  ddspo: {align: ddspo, options: {beta: 2000, precision: bf16, learning-rate: 1e-3}}
training: {train-steps: 2, batch-size: 2, micro-batch: 2, holdout: 2, learning-rate: 1e-3, evaluate-every: 0}
seeds: [0, 1]
scales: [1]
num_images: 1
sampling: {steps: 1, device: cpu}
evaluations:
  shapes: {suite: shapes, options: {replicates: 20, autoencoder: "{model}"}}
choosing: {scales: [1, 3], checkpoints: [1, 2], by: [artefact_rate], tries: {learning-rate: [1e-2, 1e-3]}}
columns:
  artefacts: {evaluation: shapes, metric: artefact_rate, factor: 100}
published:
  source: nobody (arXiv 0000.00000)
  rows: {base: {artefacts: 12.25}, elsewhere: {artefacts: 27.5}}
"""
# and what the ledger says of a command's files, which have clocks in them
_CLOCK = re.compile(rb'"seconds": [^,}\n]*|(?<=  wrote: )\S+')
_LOOSE = ("events.out", ".")


@pytest.fixture(scope="module")
def finished(undrawn: None, tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A folder with a study that was run to its end, and what it said."""
    folder = tmp_path_factory.mktemp("study")
    shutil.copytree(tiny_model, folder / "model")
    (folder / "study.yaml").write_text(STUDY)
    done = _study(folder, "run")
    assert done.returncode == 0, done.stderr
    (folder / "said.txt").write_text(done.stderr)
    return folder


def _study(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """As one types it below the folder, ended; in this process, which has the libraries loaded."""
    arguments = _command(*words)[3:]
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(folder)
        code = main(arguments)
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def _command(*words: str) -> list[str]:
    return [sys.executable, "-m", "contrapose", "study", *words, "study.yaml"]


def _shown(text: str) -> list[str]:
    return [line.removeprefix("$ ") for line in text.splitlines() if line.startswith("$ contrapose")]


def content(out: Path) -> dict[str, bytes]:
    """What a study wrote, without clocks; its pages tell how long training took."""
    files = [path for path in sorted(out.rglob("*")) if path.is_file() and not path.name.startswith(_LOOSE)]
    return {path.relative_to(out).as_posix(): _CLOCK.sub(b"", path.read_bytes()) for path in files}


def test_the_report_tells_what_was_chosen_and_what_was_published(finished: Path) -> None:
    page = (finished / "out" / "report.html").read_text()
    tables = (finished / "out" / "tables.md").read_text()
    for text in ("Guidance scales on dev prompts", "12.25", "elsewhere", "nobody (arXiv 0000.00000)", "at its own"):
        assert text in page and text in tables
    choices = yaml.safe_load((finished / "out" / "choices.yaml").read_text())
    assert set(choices["choices"]) == {"base", "dpo", "ddspo"}
    assert choices["rule"]["rule"] == "mean" and choices["by"] == ["artefact_rate"]
    # two scales for the base, and two scales by two checkpoints for each method
    assert len(choices["candidates"]) == 2 + 2 * 4
    assert all(len(one["scores"]) == 2 for one in choices["candidates"] if one["model"] != "base")


def test_every_figure_of_the_choice_is_the_evaluations_own(finished: Path) -> None:
    choices = yaml.safe_load((finished / "out" / "choices.yaml").read_text())
    for one in choices["candidates"]:
        summary = json.loads((finished / f"out/evidence/dev/scale-{one['scale']:g}/summary.json").read_text())
        step = one.get("checkpoint")
        names = ["base"] if step is None else [f"{one['model']}@{step}/{seed}" for seed in (0, 1)]
        scores = [summary["models"][name]["metrics"]["artefact_rate"]["overall"]["value"] for name in names]
        assert one["scores"] == scores


def test_again_runs_nothing_but_the_report(finished: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (finished / "out").rglob("*") if path.is_file()}
    again = _study(finished, "run")
    assert again.returncode == 0
    assert [shlex.split(line)[1:3] for line in _shown(again.stderr)] == [["study", "report"]]
    assert "were done already" in again.stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.parametrize("spoil", [Path.unlink, lambda image: image.write_bytes(bytes(image.stat().st_size))])
def test_what_was_lost_or_broken_is_made_again(finished: Path, tmp_path: Path, spoil: Callable[[Path], object]) -> None:
    shutil.copytree(finished, tmp_path / "copy", copy_function=shutil.copy2)
    image = next((tmp_path / "copy" / "out" / "images" / "scale-1" / "ddspo-1@1").glob("*/samples/*.png"), None)
    image = image or next((tmp_path / "copy" / "out" / "images").rglob("samples/*.png"))
    lost = image.read_bytes()
    spoil(image)
    again = _study(tmp_path / "copy", "run")
    assert again.returncode == 0, again.stderr
    assert image.read_bytes() == lost
    assert any(f"--out {image.parents[2].relative_to(tmp_path / 'copy')} " in line for line in _shown(again.stderr))


def test_the_plan_is_what_was_run(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(finished)

    def choice(words: str) -> str:
        assert main(shlex.split(words)[1:]) == 0
        return capsys.readouterr().out.strip()

    assert main(["study", "plan", "study.yaml"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("contrapose")]
    answered = [re.sub(r'"\$\((.*?)\)"', lambda asked: choice(asked[1]), line) for line in lines]
    assert any("$(" in line for line in lines)
    assert list(dict.fromkeys(answered)) == _shown(Path("said.txt").read_text())


def test_a_choice_that_is_not_made_yet_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("study.yaml").write_text(STUDY)
    assert main(["study", "choice", "study.yaml", "ddspo", "scale"]) == 2
    assert "the dev prompts are not judged yet" in capsys.readouterr().err
    assert main(["study", "report", "study.yaml"]) == 2
    assert "is not finished evidence" in capsys.readouterr().err


def test_a_model_that_the_study_does_not_have_has_no_choice(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(finished)
    for words, named in ((["dspo", "scale"], "dspo: no model of this study"), (["base", "checkpoint"], "base: has no")):
        assert main(["study", "choice", "study.yaml", *words]) == 2
        assert named in capsys.readouterr().err


@pytest.mark.exhaustive
def test_killed_twenty_times_it_is_a_study_never_killed(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "model", tmp_path / "model")
    (tmp_path / "study.yaml").write_text(STUDY)
    whole = content(finished / "out")
    waits = random.Random(0)
    num_killed = 0
    while num_killed < 20:
        process = subprocess.Popen(
            _command("run"), cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(os.environ)
        )
        time.sleep(waits.uniform(4, 14))
        if process.poll() is not None:  # it came to its end before; begin anew
            assert process.returncode == 0
            assert _differing(content(tmp_path / "out"), whole) == []
            shutil.rmtree(tmp_path / "out")
            continue
        process.send_signal(signal.SIGKILL)
        process.wait()
        num_killed += 1
    assert _study(tmp_path, "run").returncode == 0
    assert _differing(content(tmp_path / "out"), whole) == []


def _differing(left: dict[str, bytes], right: dict[str, bytes]) -> list[str]:
    names = sorted(left.keys() | right.keys())
    # the page tells of clocks
    return [name for name in names if left.get(name) != right.get(name) and name != "report.html"]
