"""What runs left, as tests compare them, and how they are killed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from contrapose.runs.names import LORA_FILE, PEFT_FILE
from contrapose.train.loop import TrainState


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


def weights_of(out: Path) -> dict[str, Tensor]:
    """Those of the network in full, or of its adapters."""
    full = out / "model/unet/diffusion_pytorch_model.safetensors"
    files = [full, out / LORA_FILE, out / PEFT_FILE]
    return load_file(next(path for path in files if path.exists()))
