"""One thing wrong in a copy of a model's folder, and how its refusal must read."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from contrapose.backbones.families.table import load_backbone
from contrapose.errors import UserError

Spoil = Callable[[Path], object]
Tensors = dict[str, torch.Tensor]


def edit(path: str, **changes: Any) -> Spoil:
    """Set entries of a JSON file; NaN and Infinity are written as Python writes them."""

    def spoil(folder: Path) -> None:
        whole = json.loads((folder / path).read_text())
        (folder / path).write_text(json.dumps(whole | changes))

    return spoil


def scheduled(**changes: Any) -> Spoil:
    """Change the scheduler's settings."""
    return edit("scheduler/scheduler_config.json", **changes)


def write(path: str, content: str | bytes) -> Spoil:
    """Put something else in place of a file."""
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / path).write_bytes(data)


def weights(path: str, change: Callable[[Tensors], Tensors]) -> Spoil:
    """Change what is in a file of weights."""

    def spoil(folder: Path) -> None:
        save_file(change(load_file(folder / path)), folder / path, metadata={"format": "pt"})

    return spoil


def refused(model: Path, says: str, **options: Any) -> None:
    """The model cannot be loaded, and the reason is one line that names it and says this."""
    with pytest.raises(UserError, match=re.escape(says)) as caught:
        load_backbone(model, **options)
    assert len(str(caught.value).splitlines()) == 1
    assert str(model) in str(caught.value)
    assert len(str(caught.value)) < 700
