"""Training state as safetensors: modules and optimisers in, the very same numbers out; never pickle."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim import Optimizer

from contrapose.errors import UserError
from contrapose.tensors import checksum, save_tensors
from contrapose.train.replay import Replay

Stateful = nn.Module | Replay | Optimizer | torch.amp.GradScaler


class BrokenCheckpoint(UserError):
    """A checkpoint that is not what was saved; the one before it may still be whole."""


def tensors_of(part: Stateful) -> dict[str, Tensor]:
    """The tensors that a part of training carries from step to step; an optimiser's are named `index.moment`.

    An optimiser's count of steps that is no tensor becomes a whole number without dimensions.
    """
    if isinstance(part, (nn.Module, Replay)):
        return {name: value.contiguous() for name, value in part.state_dict().items()}
    if isinstance(part, torch.amp.GradScaler):
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in part.state_dict().items()}
    return {
        f"{index}.{name}": torch.tensor(value) if isinstance(value, int) else _own(value)
        for index, parameter in enumerate(_parameters(part))
        for name, value in part.state.get(parameter, {}).items()
    }


def restore(part: Stateful, tensors: dict[str, Tensor]) -> None:
    """Put tensors back that `tensors_of` gave."""
    if isinstance(part, (nn.Module, Replay)):
        part.load_state_dict(tensors)
        return
    if isinstance(part, torch.amp.GradScaler):
        counts = ("growth_interval", "_growth_tracker")
        part.load_state_dict({n: int(v.item()) if n in counts else v.item() for n, v in tensors.items()})
        return
    state: dict[int, dict[str, Tensor | int]] = {}
    for key, value in tensors.items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = int(value) if value.ndim == 0 and value.dtype == torch.int64 else value
    part.load_state_dict({"state": state, "param_groups": part.state_dict()["param_groups"]})
    for parameter, moments in part.state.items():
        for name, value in moments.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                # moments, of 8 bits too, keep the parameter's memory layout, as fused kernels want
                moments[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    """In the order by which `state_dict` numbers them."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _own(value: Tensor) -> Tensor:
    """In memory of its own, as safetensors wants it: bitsandbytes' parameters share one table of quantiles."""
    return value.contiguous() if value.numel() > 256 else value.clone(memory_format=torch.contiguous_format)


def save_training(path: Path, step: int, **parts: Stateful) -> None:
    """Write all parts and the step into one file, aside and renamed: a kill leaves the old file or the new one."""
    tensors = {f"{name}/{key}": value for name, part in parts.items() for key, value in tensors_of(part).items()}
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
        restore(part, {key.removeprefix(f"{name}/"): t for key, t in tensors.items() if key.startswith(f"{name}/")})
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
