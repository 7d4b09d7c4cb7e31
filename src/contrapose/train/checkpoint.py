"""Training state as safetensors: what `state` gives goes in, and the very same numbers come out; never pickle."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor
from torch.optim import Optimizer

from contrapose.errors import UserError
from contrapose.tensors import checksum, save_tensors


class Stateful(Protocol):
    """A part of training that carries tensors from step to step; what `state` gives, `load` puts back to the bit."""

    def state(self) -> dict[str, Tensor]:
        """The tensors by name; each is saved under `part/name`."""

    def load(self, state: dict[str, Tensor]) -> None:
        """Put back what `state` gave."""


class BrokenCheckpoint(UserError):
    """A checkpoint that is not what was saved; the one before it may still be whole."""


class Weights:
    """Parameters in a fixed order, by their number."""

    def __init__(self, parameters: Sequence[Tensor]):
        self._parameters = parameters

    def state(self) -> dict[str, Tensor]:
        return {str(number): parameter.detach().contiguous() for number, parameter in enumerate(self._parameters)}

    @torch.no_grad()
    def load(self, state: dict[str, Tensor]) -> None:
        for number, parameter in enumerate(self._parameters):
            parameter.copy_(state[str(number)])  # in place, so that the memory's layout stays


class Moments:
    """An optimiser's state, by `parameter's number.moment`; its settings are the new run's.

    A count of steps that is no tensor becomes a whole number without dimensions.
    """

    def __init__(self, optimizer: Optimizer):
        self._optimizer = optimizer

    def state(self) -> dict[str, Tensor]:
        tensors = {}
        for number, parameter in enumerate(self._parameters()):
            for name, value in self._optimizer.state.get(parameter, {}).items():
                tensors[f"{number}.{name}"] = torch.tensor(value) if isinstance(value, int) else _unshared(value)
        return tensors

    def load(self, state: dict[str, Tensor]) -> None:
        moments: dict[int, dict[str, Tensor | int]] = {}
        for key, value in state.items():
            number, _, name = key.partition(".")
            is_count = value.ndim == 0 and value.dtype == torch.int64
            moments.setdefault(int(number), {})[name] = int(value) if is_count else value
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": moments, "param_groups": groups})
        for parameter, restored in self._optimizer.state.items():
            for name, value in restored.items():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    # moments, of 8 bits too, keep the parameter's memory layout, as fused kernels want
                    restored[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)

    def _parameters(self) -> list[Tensor]:
        """In the order by which `state_dict` numbers them."""
        return [parameter for group in self._optimizer.param_groups for parameter in group["params"]]


class Scaler:
    """A gradient scaler's numbers."""

    _COUNTS = ("growth_interval", "_growth_tracker")

    def __init__(self, scaler: torch.amp.GradScaler):
        self._scaler = scaler

    def state(self) -> dict[str, Tensor]:
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in self._scaler.state_dict().items()}

    def load(self, state: dict[str, Tensor]) -> None:
        numbers = {name: value.item() for name, value in state.items()}
        self._scaler.load_state_dict({n: int(v) if n in self._COUNTS else v for n, v in numbers.items()})


def _unshared(value: Tensor) -> Tensor:
    """In memory of its own, as safetensors wants it: bitsandbytes' parameters share one table of quantiles."""
    return value.contiguous() if value.numel() > 256 else value.clone(memory_format=torch.contiguous_format)


def save_training(path: Path, step: int, **parts: Stateful) -> None:
    """Write all parts and the step into one file, aside and renamed: a kill leaves the old file or the new one."""
    tensors = {f"{name}/{key}": value for name, part in parts.items() for key, value in part.state().items()}
    note = json.dumps({"step": step, "checksum": checksum(tensors)})
    save_tensors(path, tensors, {"training": note})


def load_training(path: Path, **parts: Stateful) -> int:
    """Restore all parts and return the step they were saved at.

    Raises `BrokenCheckpoint` naming the file when it is not to the last byte what was saved; nothing is restored then.
    """
    step, tensors = _read(path)
    missing = [name for name in parts if not any(key.startswith(f"{name}/") for key in tensors)]
    if step > 0 and missing:
        raise BrokenCheckpoint(f"{path}: holds no {', '.join(missing)}")
    for name, part in parts.items():
        part.load({key.removeprefix(f"{name}/"): t for key, t in tensors.items() if key.startswith(f"{name}/")})
    return step


def _read(path: Path) -> tuple[int, dict[str, Tensor]]:
    try:
        with safe_open(path, "pt") as header:
            note = json.loads(header.metadata()["training"])
        step, written = note["step"], note["checksum"]
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise BrokenCheckpoint(f"{path}: cut short or broken ({' '.join(str(error).split())})") from None
    except (TypeError, KeyError, ValueError, RecursionError):
        raise BrokenCheckpoint(f"{path}: does not say which step it is of") from None
    if not isinstance(step, int) or step < 0:
        raise BrokenCheckpoint(f"{path}: says that it is of step {step!r:.40}")
    if written != checksum(tensors):
        raise BrokenCheckpoint(f"{path}: holds something else than was saved")
    return step, tensors
