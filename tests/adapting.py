"""What puts a run's weights to use, each as its command does, and how a run is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import stock
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from training import with_full, with_lora, with_own_network

import contrapose
from contrapose.backbones.base import Backbone
from contrapose.backbones.families.table import load_backbone
from contrapose.cli.export import Command, export
from contrapose.errors import UserError
from contrapose.guiding.merge import Merge, merge

SETTINGS = "lora_adapter_metadata"  # in a file's header
Tensors, Notes = dict[str, torch.Tensor], dict[str, str]


_shared = lru_cache(maxsize=2)(load_backbone)
_piped = lru_cache(maxsize=2)(stock.load)


def _adapter(run: Path, model: Path) -> None:
    load_backbone(model, adapter=run)


def _positive(run: Path, model: Path) -> None:
    with contrapose.guide(_piped("sd", model), run):
        pass


def _start(run: Path, backbone: Backbone) -> None:
    with_lora(backbone, None, None, start=run)


def _frozen(run: Path, backbone: Backbone) -> None:
    with_lora(backbone, 2, 2.0, frozen={"other": run})


def _full_start(run: Path, backbone: Backbone) -> None:
    with_full(backbone, torch.float32, start=run)


def _merge(run: Path, model: Path) -> None:
    merge(Merge(str(model), run), run.parent / "merged")


def _export(run: Path, model: Path) -> None:
    export(Command(run, run.parent / "exported.safetensors"))


IN_USE = {"adapter": _adapter, "positive": _positive, "merge": _merge, "export": _export}
IN_TRAINING = {"start": _start, "policies": _frozen, "full-start": _full_start}
COMMANDS = (*IN_USE, *IN_TRAINING)


def use(command: str, run: Path, model: Path) -> None:
    """Put the run to use on the model as the command does."""
    if command in IN_TRAINING:
        IN_TRAINING[command](run, with_own_network(_shared(model)))
    else:
        IN_USE[command](run, model)


def rewrite(path: Path, change: Callable[[Tensors, Notes], Any]) -> None:
    """Change what a file holds, or says in its header."""
    with safe_open(path, "pt") as file:
        notes = file.metadata()
    tensors = load_file(path)
    change(tensors, notes)
    save_file(tensors, path, notes)


def refused(command: str, run: Path, model: Path, line: str) -> None:
    """The command refuses a run in one line, writes nothing, and leaves the network as it was."""
    before = sorted(run.parent.rglob("*"))
    with pytest.raises(UserError) as caught:
        if command in IN_TRAINING:
            _on_shared(command, run, _shared(model))
        else:
            use(command, run, model)
    message = str(caught.value)
    assert re.search(line, message), message
    assert str(run) in message
    assert "\n" not in message
    assert sorted(run.parent.rglob("*")) == before, "nothing is written"


def _on_shared(command: str, run: Path, backbone: Backbone) -> None:
    """On the network that all refusals share, since a copy for each takes longer than to refuse."""
    before = [name for name, _ in backbone.denoiser.network.named_parameters()]
    try:
        IN_TRAINING[command](run, backbone)
    finally:
        if [name for name, _ in backbone.denoiser.network.named_parameters()] != before:
            _shared.cache_clear()
            raise AssertionError("something was put on the network")
