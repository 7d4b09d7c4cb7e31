"""Several processes: two that know of each other are one run, two that do not are told so, and one may be killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import every_method
import pytest
from launched import ACQUAINTED, SECONDS, Launcher, free_port, own_groups
from safetensors import safe_open
from safetensors.torch import load_file
from training import with_lora

from contrapose.backbones.families.table import load_backbone
from contrapose.cli.main import main

pytestmark = pytest.mark.slow

SMALL = ["--train-steps", "3", "--batch-size", "4", "--micro-batch", "2", "--holdout", "2", "--learning-rate", "1e-3"]
DROPPING = ["--lora-kind", "rslora", "--lora-dropout", "0.3", "--train-text-encoder"]


def _weights(run: Path) -> dict[str, bytes]:
    """Those of every stage and of every policy that is trained."""
    weights: dict[str, bytes] = {}
    for file in run.rglob("pytorch_lora_weights.safetensors"):
        place = file.relative_to(run).parent.as_posix()
        weights |= {f"{place}/{name}": value.numpy().tobytes() for name, value in load_file(file).items()}
    return weights


def _losses(run: Path) -> list[tuple[int, float]]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [(line["step"], line["loss"]) for line in map(json.loads, lines)]


def _rows() -> Iterator[object]:
    """Every method, of which the suite has one with adapters of all kinds, one of two stages and of rollouts, and one
    that judges its own."""
    yield pytest.param("ddspo", False, DROPPING, id="ddspo")
    yield pytest.param("realalign", True, ["--rollout-steps", "4"], id="realalign")
    yield pytest.param("online-dpo", False, own_groups(4), id="online-dpo")
    for name in every_method.NAMES:
        yield pytest.param(name, False, [], id=f"exhaustive-{name}", marks=pytest.mark.exhaustive)


@pytest.mark.parametrize(("method", "write_last", "options"), _rows())
def test_two_processes_are_one_run(
    launcher: Launcher,
    tiny_model: Path,
    tiny_pairs: Path,
    tmp_path: Path,
    method: str,
    write_last: bool,
    options: list[str],
) -> None:
    """Two micro-batches a step, so that each process has one and the sum has one order."""
    options = options or [*every_method.flags(method)]
    named: list[object] = ["align", method, "--model", tiny_model, "--pairs", tiny_pairs, *SMALL, *options]
    cache = tmp_path / "cache"
    ended = launcher.start_two(
        [*named, "--out", tmp_path / "two"], write_last, CONTRAPOSE_CACHE=str(cache), **ACQUAINTED
    )
    assert [process.code for process in ended] == [0, 0], ended[0].err + ended[1].err
    assert "2 processes" in ended[0].err and ended[1].err == ""
    assert main([str(a) for a in [*named, "--out", tmp_path / "one"]]) == 0
    assert [step for step, _ in _losses(tmp_path / "two")] == [1, 2, 3]
    assert dict(_losses(tmp_path / "two")) == pytest.approx(dict(_losses(tmp_path / "one")))
    assert _weights(tmp_path / "two") == _weights(tmp_path / "one") != {}
    assert sorted(p.name for p in (tmp_path / "two").iterdir()) == sorted(p.name for p in (tmp_path / "one").iterdir())
    read = Counter(key for shard in cache.glob("embeddings/*/*.safetensors") for key in _rows_of(shard))
    del read["unconditional"]
    assert set(read.values()) == ({1} if "--train-text-encoder" not in options else set()), "each prompt by one of them"


def _rows_of(shard: Path) -> list[str]:
    with safe_open(shard, "pt") as file:
        return [*file.metadata()]


def _content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_two_workers_write_what_one_does(
    launcher: Launcher, tiny_model: Path, tiny_pairs: Path, prompts_file: Path, tmp_path: Path
) -> None:
    """Groups that are drawn and scored, images, what is judged of them, and a sweep; each process reads text itself."""
    few = ["--steps", "1", "--batch-size", "2", "--device", "cpu"]
    of_model: list[object] = ["--model", tiny_model, "--prompts", prompts_file, *few]
    judges = ["--judges", "colourfulness", "--device", "cpu", "--shard-size", "3"]
    judged = ["--suite", "scores", "--judges", "colourfulness", "--features", "pixels", "--title", "a"]
    judged += ["--replicates", "20"]
    with_lora(load_backbone(tiny_model), 2, 2).save(tmp_path / "run")
    swept = [
        "--positive",
        str(tmp_path / "run"),
        "--scales",
        "0",
        "1",
        "--suite",
        "scores",
        "--judges",
        "colourfulness",
    ]
    swept += ["--label", "a"]
    lines: dict[str, list[object]] = {
        "drawn": ["pairs", "draw", *of_model, "--shard-size", "2"],
        "scored": ["pairs", "score", tiny_pairs, *judges],
        "images": ["sample", *of_model, "--num-images", "1"],
        "judged": ["evaluate", *judged, "--images", f"base={tmp_path / 'images/one'}", f"a={tmp_path / 'images/two'}"],
        "swept": ["sweep", *of_model, "--num-images", "1", *swept],
    }
    for name, line in lines.items():
        out = tmp_path / name
        cache = {"CONTRAPOSE_CACHE": str(tmp_path / "cache" / name)}
        ended = launcher.start_two([*line, "--out", out / "two"], **cache)
        assert [process.code for process in ended] == [0, 0], ended[0].err + ended[1].err
        assert main([str(a) for a in [*line, "--out", out / "one"]]) == 0
        # pages are titled by their folder
        one, two = ({**_content(out / each), "contact.html": b"", "page.html": b""} for each in ("one", "two"))
        assert one == two


def test_a_command_that_shares_nothing_is_started_once(launcher: Launcher, tiny_pairs: Path, tmp_path: Path) -> None:
    ended = launcher.start_two(["pairs", "label", tiny_pairs, "--by", "clip", "--out", tmp_path / "out"])
    assert [process.code for process in ended] == [2, 2]
    assert "pairs label: was started as 2 processes" in " ".join(ended[0].err.split()) and ended[1].err == ""


def test_two_that_do_not_know_of_each_other_are_told_once(
    launcher: Launcher, tiny_model: Path, tiny_pairs: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    ended = launcher.start_two(["align", "ddspo", "--model", tiny_model, "--pairs", tiny_pairs, *SMALL, "--out", out])
    assert [process.code for process in ended] == [2, 2]
    assert "2 processes were started that do not know of each other" in ended[0].err
    assert len((ended[0].err + ended[1].err).splitlines()) == 1
    assert not out.exists()


def test_kill_9_and_again(launcher: Launcher, tiny_model: Path, tiny_pairs: Path, tmp_path: Path) -> None:
    where = ["--model", tiny_model, "--pairs", tiny_pairs, *SMALL, "--save-every", "1", "--train-steps", "16"]
    command: list[object] = ["align", "ddspo", *where]
    process = launcher.start_one([*command, "--out", tmp_path / "cut"])
    _wait_for(tmp_path / "cut/checkpoints/step-000003")
    os.kill(process, signal.SIGKILL)
    assert launcher.code_of(process) == -signal.SIGKILL
    assert not (tmp_path / "cut/finished.json").exists(), "the kill came in the middle"
    for out in ("cut", "whole"):
        assert main([str(a) for a in [*command, "--out", tmp_path / out]]) == 0
    assert _weights(tmp_path / "cut") == _weights(tmp_path / "whole")


class Torchrun(NamedTuple):
    """A run of 16 steps under torchrun, which may start its processes again, and a folder for it."""

    line: list[object]
    out: Path
    meeting: list[str]

    @classmethod
    def of(cls, model: Path, pairs: Path, folder: Path) -> Torchrun:
        where = ["--model", model, "--pairs", pairs, *SMALL, "--save-every", "1", "--train-steps", "16"]
        meeting = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{free_port()}", "--rdzv-id", "again"]
        return cls(["align", "ddspo", *where], folder, meeting)

    def start(self, *options: str) -> subprocess.Popen[str]:
        torchrun = ["-m", "torch.distributed.run", "--max-restarts", "3", *self.meeting, *options]
        command = [sys.executable, *torchrun, "-m", "contrapose", *self.line, "--out", self.out / "cut"]
        environment = os.environ | ACQUAINTED | {"OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
        return subprocess.Popen(list(map(str, command)), env=environment, stderr=subprocess.PIPE, text=True)

    def is_under_way(self) -> None:
        _wait_for(self.out / "cut/checkpoints/step-000003")

    def check(self, left: subprocess.Popen[str], within: float = 1e-6) -> str:
        """What was said by the one that is left, whose losses are those of a run that nobody killed."""
        assert not (self.out / "cut/finished.json").exists(), "the kill came in the middle"
        _, said = left.communicate(timeout=SECONDS)
        assert left.returncode == 0, said
        assert main([str(a) for a in [*self.line, "--out", self.out / "whole"]]) == 0
        assert dict(_losses(self.out / "cut")) == pytest.approx(dict(_losses(self.out / "whole")), rel=within)
        return said


def _workers_of(launched: subprocess.Popen[str]) -> list[int]:
    return [int(child) for child in Path(f"/proc/{launched.pid}/task/{launched.pid}/children").read_text().split()]


@pytest.mark.exhaustive
def test_torchrun_starts_all_again_where_one_was_killed(tiny_model: Path, tiny_pairs: Path, tmp_path: Path) -> None:
    """Which go on from the last kept step, to the bytes of one process that nobody killed."""
    run = Torchrun.of(tiny_model, tiny_pairs, tmp_path)
    with run.start("--nproc-per-node", "2") as launched:
        run.is_under_way()
        os.kill(_workers_of(launched)[-1], signal.SIGKILL)
        said = run.check(launched)
    assert said.count("training over 2 processes") == 2, "both began again"
    assert "may wait for one another" not in said
    assert _weights(tmp_path / "cut") == _weights(tmp_path / "whole")


@pytest.mark.exhaustive
def test_torchrun_goes_on_without_a_node_that_was_lost(tiny_model: Path, tiny_pairs: Path, tmp_path: Path) -> None:
    """Of two nodes, one dies with all its processes: the other starts again alone, and ends as one that began alone."""
    run = Torchrun.of(tiny_model, tiny_pairs, tmp_path)
    of_two = ["--nnodes", "1:2", "--nproc-per-node", "1"]
    # the one that stays keeps the store by which they meet
    with (
        run.start(*of_two, "--rdzv-conf", "is_host=1") as stays,
        run.start(*of_two, "--rdzv-conf", "is_host=0") as lost,
    ):
        run.is_under_way()
        for child in _workers_of(lost):
            os.kill(child, signal.SIGKILL)
        lost.kill()
        said = run.check(stays, within=1e-4)
    assert "training over 2 processes" in said, "both had begun"


def _wait_for(step: Path) -> None:
    """Wait for this kept step or a later one."""
    until = time.monotonic() + 300
    while time.monotonic() < until:
        later = step.parent.glob("step-*") if step.parent.exists() else ()
        if any(found.name >= step.name for found in later):
            return
        time.sleep(0.01)
    pytest.fail(f"{step.name} never came")
