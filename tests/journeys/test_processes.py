"""Several processes: two that know of each other are one run, and two that do not are told so."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from contrapose.cli.main import main

pytestmark = pytest.mark.slow

SMALL = ["--train-steps", "3", "--batch-size", "4", "--micro-batch", "2", "--holdout", "2", "--learning-rate", "1e-3"]
DROPPING = ["--lora-kind", "rslora", "--lora-dropout", "0.3", "--train-text-encoder"]
COMMAND = "import sys; from contrapose.cli.main import main; sys.exit(main())"
# The first process is slow to write what the second stage begins with, as gigabytes on a network disk are.
SLOW = """
import time
from contrapose.train import align
finish = align.finish
def slowly(*given):
    time.sleep(3)
    finish(*given)
align.finish = slowly
""" + COMMAND.replace("import sys; ", "import sys\n")
# the slow script imports libraries before the command can silence them
ACQUAINTED = {"ACCELERATE_USE_CPU": "true", "TRANSFORMERS_VERBOSITY": "error"}


def _free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def _started_twice(arguments: list[object], script: str = COMMAND, **more: str) -> list[subprocess.CompletedProcess]:
    """Both processes as a launcher starts them, ended."""
    shared = {
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": _free_port(),
        "OMP_NUM_THREADS": "1",
        **more,
    }
    line = [sys.executable, "-c", script, *map(str, arguments)]
    started = [
        subprocess.Popen(
            line,
            env=os.environ | shared | {"RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    ended = []
    for process in started:
        out, err = process.communicate(timeout=240)
        ended.append(subprocess.CompletedProcess(line, process.returncode, out, err))
    return ended


def _weights(run: Path) -> dict[str, bytes]:
    tensors = load_file(run / "pytorch_lora_weights.safetensors")
    return {name: value.numpy().tobytes() for name, value in tensors.items()}


def _losses(run: Path) -> list[tuple[int, float]]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [(line["step"], line["loss"]) for line in map(json.loads, lines)]


@pytest.mark.parametrize(
    ("method", "script", "options"), [("ddspo", COMMAND, DROPPING), ("realalign", SLOW, [])], ids=["ddspo", "realalign"]
)
def test_two_processes_are_one_run(
    tiny_model: Path, tiny_pairs: Path, tmp_path: Path, method: str, script: str, options: list[str]
) -> None:
    """Two micro-batches a step, so that each process has one and the sum has one order."""
    named: list[object] = ["align", method, "--model", tiny_model, "--pairs", tiny_pairs, *SMALL, *options]
    ended = _started_twice([*named, "--out", tmp_path / "two"], script, **ACQUAINTED)
    assert [process.returncode for process in ended] == [0, 0], ended[0].stderr + ended[1].stderr
    assert "2 processes" in ended[0].stderr and ended[1].stderr == ""
    assert main([str(a) for a in [*named, "--out", tmp_path / "one"]]) == 0
    assert [step for step, _ in _losses(tmp_path / "two")] == [1, 2, 3]
    assert dict(_losses(tmp_path / "two")) == pytest.approx(dict(_losses(tmp_path / "one")))
    assert _weights(tmp_path / "two") == _weights(tmp_path / "one")
    assert sorted(p.name for p in (tmp_path / "two").iterdir()) == sorted(p.name for p in (tmp_path / "one").iterdir())


def test_two_that_do_not_know_of_each_other_are_told_once(tiny_model: Path, tiny_pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ended = _started_twice(["align", "ddspo", "--model", tiny_model, "--pairs", tiny_pairs, *SMALL, "--out", out])
    assert [process.returncode for process in ended] == [2, 2]
    assert "2 processes were started that do not know of each other" in ended[0].stderr
    assert len((ended[0].stderr + ended[1].stderr).splitlines()) == 1
    assert not out.exists()
