"""Copies to a device that the host waits for, found without one: on the meta device, where nothing has values."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import contrapose

_COPIES = ("aten::_to_copy", "aten::copy_")
_OURS = str(Path(contrapose.__file__).parent)
_NETWORKS = "/diffusers/models/"  # which copy as they like


@contextmanager
def copies() -> Iterator[list[str]]:
    """Lines of the package from which something was copied from the host, but what is `non_blocking`."""
    lines: list[str] = []
    with _Made(lines), _Copied(lines):
        yield lines


def _note(lines: list[str]) -> None:
    frames = traceback.extract_stack()
    ours = [frame for frame in frames if frame.filename.startswith(_OURS)]
    if ours and not any(_NETWORKS in frame.filename for frame in frames):
        lines.append(f"{Path(ours[-1].filename).name}: {ours[-1].line}")


class _Made(TorchFunctionMode):
    """Sees tensors that are made of numbers on the device."""

    def __init__(self, lines: list[str]):
        super().__init__()
        self._lines = lines

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") in ("tensor", "as_tensor", "new_tensor") and result.is_meta:
            _note(self._lines)
        return result


class _Copied(TorchDispatchMode):
    """Sees copies to the device."""

    def __init__(self, lines: list[str]):
        super().__init__()
        self._lines = lines

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        waits = func._schema.name in _COPIES and not (kwargs or {}).get("non_blocking")
        comes_from = [value for value in tree_leaves(args) if isinstance(value, Tensor)]
        if waits and result.is_meta and any(not value.is_meta for value in comes_from):
            _note(self._lines)
        return result
