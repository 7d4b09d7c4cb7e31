"""A device that is not there is told in one line by every command that takes one, before it has read or written."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch

from contrapose.backbones.loading import check_device
from contrapose.cli.main import COMMANDS, main
from contrapose.errors import UserError

NOWHERE = ["foo", "meta", "", " ", "cpu:x", "cuda:9", "cuda:-1", "xpu", "hpu", "privateuseone", "CPU", "cpu,cuda"]
THERE = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
ABSENT = [name for name, there in THERE.items() if not there]


def _takes_a_device(module: str) -> bool:
    command = getattr(importlib.import_module(f"contrapose.cli.{module}"), "Command", None)
    return "on" in getattr(command, "__dataclass_fields__", {})


WITH_DEVICE = [name for name, command in COMMANDS.items() if _takes_a_device(command.module)]
# What must be given besides, none of which is there: the device is told first.
REQUIRED = {
    "pairs import": ["--winners", "w", "--losers", "l", "--model", "m"],
    "pairs export": ["pairs"],
    "pairs show": ["pairs"],
    "pairs score": ["pairs", "--judges", "colourfulness"],
    "evaluate": ["--images", "base=i"],
    "pairs real": ["--photos", "i", "--model", "m"],
    "play": ["--model", "m", "--positive", "p"],
}


def test_which_commands_take_a_device() -> None:
    assert {"sample", "sweep", "play", "pairs draw", "pairs import", "pairs export", "pairs real"} <= set(WITH_DEVICE)


@pytest.mark.parametrize("device", [*NOWHERE, *ABSENT])
@pytest.mark.parametrize("name", WITH_DEVICE)
def test_a_device_that_is_not_there(
    name: str, device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    needed = REQUIRED.get(name, ["--model", "m", "--prompts", "p.txt"])
    assert main([*name.split(), *needed, "--out", "out", "--device", device]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert f"device {device!r}: cannot be used here (there are: cpu" in line
    assert list(tmp_path.iterdir()) == []


def test_devices_that_are_there() -> None:
    check_device("cpu")
    check_device("cpu:0")
    check_device(torch.device("cpu"))


def test_the_function_too(tiny_model: Path) -> None:
    from contrapose.backbones.families.table import load_backbone

    with pytest.raises(UserError, match="device 'meta'"):
        load_backbone(tiny_model, device="meta")
