"""What runs left, as tests compare them, and how they are killed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from contrapose.runs.names import LORA_FILE, PEFT_FILE
from contrapose.train.align import align
from contrapose.train.loop import TrainState
from contrapose.train.settings import Run


def until(states: Iterator[TrainState], step: int) -> None:
    """As a kill just after this step."""
    for state in states:
        if state.step == step:
            break
    states.close()


def metrics_of(out: Path) -> list[dict[str, float]]:
    """All but the clock, which no two runs share."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def check_killed_ends_the_same(run: Run, folder: Path, kill: int) -> None:
    """A run that is killed after this step goes on from there, to the metrics and weights of one that was not."""
    whole = folder / "whole"
    cut = folder / "cut"
    list(align(run, whole))
    until(align(run, cut), kill)
    resumed = list(align(run, cut))
    assert resumed[0].step == kill
    assert metrics_of(cut) == metrics_of(whole)
    ours = weights_of(cut)
    theirs = weights_of(whole)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def content_of(out: Path) -> dict[str, Any]:
    """All that decides how a run goes on and ends, by file: tensors to the byte, and the metrics but for clocks."""
    content: dict[str, Any] = {}
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        if path.suffix == ".safetensors":
            content[name] = path.read_bytes()
        elif path.name == "metrics.jsonl":
            content[name] = metrics_of(path.parent)
    return content


def weights_of(out: Path) -> dict[str, Tensor]:
    """Those of the network in full, or of its adapters."""
    full = out / "model/unet/diffusion_pytorch_model.safetensors"
    files = [full, out / LORA_FILE, out / PEFT_FILE]
    return load_file(next(path for path in files if path.exists()))
