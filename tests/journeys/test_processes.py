"""Several processes: two that know of each other are one run, and two that do not are told so."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from safetensors.torch import load_file

from contrapose.cli.main import main

pytestmark = pytest.mark.slow

SMALL = ["--train-steps", "3", "--batch-size", "4", "--micro-batch", "2", "--holdout", "2", "--learning-rate", "1e-3"]
METHODS = ("ddspo", "realalign")
# Command lines one after another, as imports take longer than they do: what each ended with and said.
# Those before the last two do not know of the other process. In the last one the first process is slow to write
# what the second stage begins with, as gigabytes on a network disk are.
SCRIPT = """
import json, os, sys, time
from contextlib import redirect_stderr
from io import StringIO
from contrapose.cli.main import main

alone, plain, slow = json.loads(sys.argv[1])

def ended(line):
    with redirect_stderr(StringIO()) as said:
        code = main(line)
    print(json.dumps([code, said.getvalue()]), flush=True)

ended(alone)

from accelerate.state import AcceleratorState  # the command has quietened the libraries by now
AcceleratorState._reset_state(reset_partial_state=True)
os.environ["ACCELERATE_USE_CPU"] = "true"
ended(plain)

from contrapose.train import align
finish = align.finish
def slowly(*given):
    time.sleep(3)
    finish(*given)
align.finish = slowly
ended(slow)
"""


class Ended(NamedTuple):
    """What a command line ended with in one of the processes."""

    code: int
    said: str


def _free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def _named(method: str, model: Path, pairs: Path, out: Path) -> list[str]:
    return ["align", method, "--model", str(model), "--pairs", str(pairs), *SMALL, "--out", str(out)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def ended(tiny_model: Path, tiny_pairs: Path, folder: Path) -> dict[str, list[Ended]]:
    """By the name of the command line, how it ended in both processes, which were started as a launcher does."""
    methods = {"alone": "ddspo", **{method: method for method in METHODS}}
    lines = [_named(method, tiny_model, tiny_pairs, folder / name) for name, method in methods.items()]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": _free_port(), "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, json.dumps(lines)],
            env=os.environ | shared | {"RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    of_processes = []
    for process in started:
        out, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
        assert err == "", "all that is said is a command line's"
        of_processes.append([Ended(*json.loads(line)) for line in out.splitlines() if line.startswith("[")])
    return dict(zip(methods, map(list, zip(*of_processes, strict=True)), strict=True))


def _weights(run: Path) -> dict[str, bytes]:
    tensors = load_file(run / "pytorch_lora_weights.safetensors")
    return {name: value.numpy().tobytes() for name, value in tensors.items()}


def _losses(run: Path) -> list[tuple[int, float]]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [(line["step"], line["loss"]) for line in map(json.loads, lines)]


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_are_one_run(
    ended: dict[str, list[Ended]], folder: Path, tiny_model: Path, tiny_pairs: Path, tmp_path: Path, method: str
) -> None:
    """Two micro-batches a step, so that each process has one and the sum has one order."""
    first, second = ended[method]
    assert (first.code, second.code) == (0, 0), first.said + second.said
    assert "2 processes" in first.said and second.said == ""
    two = folder / method
    one = tmp_path / "one"
    assert main(_named(method, tiny_model, tiny_pairs, one)) == 0
    assert [step for step, _ in _losses(two)] == [1, 2, 3]
    assert dict(_losses(two)) == pytest.approx(dict(_losses(one)))
    assert _weights(two) == _weights(one)
    assert sorted(p.name for p in two.iterdir()) == sorted(p.name for p in one.iterdir())


def test_two_that_do_not_know_of_each_other_are_told_once(ended: dict[str, list[Ended]], folder: Path) -> None:
    first, second = ended["alone"]
    assert (first.code, second.code) == (2, 2)
    assert "2 processes were started that do not know of each other" in first.said
    assert len((first.said + second.said).splitlines()) == 1
    assert not (folder / "alone").exists()
