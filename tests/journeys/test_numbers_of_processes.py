"""Two and three processes are what one alone is, for every kind of method, and a run goes on over another number.

Processes are expensive to start, so that those of one number train all kinds one after another.
"""

from __future__ import annotations

import math
import shutil
import signal
from pathlib import Path

import pytest
import torch
from launched import ACQUAINTED, Launcher, own_groups
from safetensors.torch import load_file
from torch import Tensor
from trained import content_of, metrics_of

from contrapose.cli.main import main

pytestmark = pytest.mark.slow

# three micro-batches: one each, or with two processes one that counts nothing besides; an update goes with the gradient
SMALL = ["--batch-size", "6", "--micro-batch", "2", "--learning-rate", "1e-3", "--epsilon", "1e-2", "--holdout", "0"]
DRAWN = ["--rollout-steps", "2", "--rollouts", "5", "--states", "2", "--buffer", "5"]
KINDS = {
    "pairs": ["ddspo", "--split-pairs"],
    "two trainees": ["chats"],
    "on-policy": ["diffusion-dro", *DRAWN],
    "groups": ["dgpo", *own_groups(3)],
}
FORMS = {"lora": [], "full": ["--full"]}
# of which the suite has each once, and the others are exhaustive
USUAL = {2: {"pairs": "full", "two trainees": "lora", "on-policy": "lora", "groups": "full"},
         3: {"pairs": "lora", "two trainees": "full", "on-policy": "full", "groups": "lora"}}  # fmt: skip


@pytest.fixture(scope="module")
def alone(tiny_model: Path, tiny_pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where runs of one process are, by kind and form."""
    return tmp_path_factory.mktemp("alone")


def line(kind: str, form: str, model: Path, pairs: Path, out: Path, num_steps: int = 3) -> list[object]:
    where = ["--model", model, "--pairs", pairs, "--out", out]
    return ["align", *KINDS[kind], *FORMS[form], *where, *SMALL, "--train-steps", num_steps]


def train(arguments: list[object]) -> None:
    assert main([str(argument) for argument in arguments]) == 0


def tensors_of(run: Path) -> dict[str, Tensor]:
    """Weights, moments and what is kept of samples, by file and name."""
    tensors: dict[str, Tensor] = {}
    for path in sorted(run.rglob("*.safetensors")):
        for name, value in load_file(path).items():
            tensors[f"{path.relative_to(run)}: {name}"] = value
    return tensors


def assert_alike(ours: Path, theirs: Path) -> None:
    """But for the order in which gradients were summed up."""
    for line, expected in zip(metrics_of(ours), metrics_of(theirs), strict=True):
        assert line.keys() == expected.keys()
        for name in ("step", "loss", "grad_norm"):  # others are small differences of large numbers
            assert line[name] == pytest.approx(expected[name], rel=1e-3)
    tensors = tensors_of(ours)
    expected_tensors = tensors_of(theirs)
    assert tensors.keys() == expected_tensors.keys()
    for name, expected in expected_tensors.items():
        torch.testing.assert_close(
            tensors[name], expected, rtol=1e-3, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("is_usual", [True, pytest.param(False, marks=pytest.mark.exhaustive)], ids=["usual", "others"])
@pytest.mark.parametrize("num", [2, 3])
def test_so_many_processes_are_one(
    launcher: Launcher, tiny_model: Path, tiny_pairs: Path, alone: Path, tmp_path: Path, num: int, is_usual: bool
) -> None:
    chosen = [(kind, form) for kind in KINDS for form in FORMS if (USUAL[num][kind] == form) == is_usual]
    lines = [line(kind, form, tiny_model, tiny_pairs, tmp_path / kind / form) for kind, form in chosen]
    ended = launcher.start(num, lines, **ACQUAINTED)
    assert [process.code for process in ended] == [0] * num, "".join(process.err for process in ended)
    for kind, form in chosen:
        expected = alone / kind / form
        if not expected.exists():
            train(line(kind, form, tiny_model, tiny_pairs, expected))
        assert_alike(tmp_path / kind / form, expected)
        assert all(math.isfinite(value) for numbers in metrics_of(expected) for value in numbers.values())


def test_killed_on_some_and_resumed_on_others(
    launcher: Launcher, tiny_model: Path, tiny_pairs: Path, tmp_path: Path
) -> None:
    """Of two killed at the third step one goes on, or three; and three that go on are those that were not killed."""

    def saving(out: str) -> list[object]:
        return [*line("on-policy", "lora", tiny_model, tiny_pairs, tmp_path / out, num_steps=4), "--save-every", 2]

    def start(num: int, *outs: str, kill_at: int = 0) -> list[int]:
        ended = launcher.start(num, [saving(out) for out in outs], kill_at=kill_at, **ACQUAINTED)
        return [process.code for process in ended]

    assert -signal.SIGKILL in start(2, "two", kill_at=3)
    assert not (tmp_path / "two/finished.json").exists() and (tmp_path / "two/checkpoints/step-000002").exists()
    shutil.copytree(tmp_path / "two", tmp_path / "one")
    shutil.copytree(tmp_path / "two", tmp_path / "three")
    train(saving("one"))
    train(saving("whole"))
    assert -signal.SIGKILL in start(3, "whole on three", "cut on three", kill_at=3)
    assert start(3, "three", "cut on three") == [0, 0, 0]
    for out in ("one", "three", "whole on three"):
        assert_alike(tmp_path / out, tmp_path / "whole")
    assert content_of(tmp_path / "cut on three") == content_of(tmp_path / "whole on three")
