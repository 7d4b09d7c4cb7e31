"""Training state as safetensors: what `state` gives goes in, and the very same numbers come out; never pickle."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor
from torch.optim import Optimizer

from contrapose.errors import UserError, one_line
from contrapose.processes import of_all, rank
from contrapose.runs.names import SHARDS
from contrapose.runs.shards import Shards, write_shards
from contrapose.tensors import checksum, cut_as, is_cut, save_tensors

T = TypeVar("T")

FORMAT = 2  # of kept steps; 1 was one file that held the weights too


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
            parameter.copy_(cut_as(state[str(number)], parameter))  # in place, so that the memory's layout stays

    def like(self, key: str) -> Tensor:
        return self._parameters[int(key)]


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
                moment = torch.tensor(value) if isinstance(value, int) else value.contiguous()
                # bitsandbytes' parameters share one table of quantiles, and safetensors wants memory of its own
                tensors[f"{number}.{name}"] = moment.clone() if moment.numel() <= 256 else moment
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
                    restored[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(cut_as(value, parameter))

    def like(self, key: str) -> Tensor:
        return self._parameters()[int(key.partition(".")[0])]

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
        for name in self._COUNTS:  # saved in double precision like the others
            numbers[name] = int(numbers[name])
        self._scaler.load_state_dict(numbers)


@runtime_checkable
class Cut(Stateful, Protocol):
    """A part whose tensors may be cut up over processes."""

    def like(self, key: str) -> Tensor:
        """A tensor that is cut as the one of this name is to be."""


class SavedWeights(Protocol):
    """Weights that lie in files of their own beside the training state."""

    notes: Mapping[str, str]

    def read(self, folder: Path) -> dict[str, Tensor]:
        """What lies in the folder, by name."""

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `read` gave."""


def save_training(path: Path, step: int, trained: SavedWeights | None = None, **parts: Stateful) -> None:
    """Write the state of all parts, the step and what `trained` wrote beside it as a checksum into one file.

    What is cut up over processes goes into a folder beside it; all processes are to call this together then.
    """
    tensors = {f"{name}/{key}": value for name, part in parts.items() for key, value in part.state().items()}
    cut = {key: value for key, value in tensors.items() if is_cut(value)}
    of_shards = write_shards(path.parent / SHARDS, cut) if cut else {}
    if rank() > 0:
        return
    tensors = {key: value for key, value in tensors.items() if key not in cut}
    # read back rather than taken from memory: what is noted is what lies on the disk
    weights = checksum(trained.read(path.parent)) if trained else 0
    note: dict[str, Any] = {"format": FORMAT, "step": step, "checksum": checksum(tensors), "weights": weights}
    if of_shards:
        note["shards"] = of_shards
    notes = trained.notes if trained else {}
    save_tensors(path, tensors, {"training": json.dumps(note), **notes})


def load_training(path: Path, trained: SavedWeights | None = None, **parts: Stateful) -> int:
    """Restore the weights and all parts, and return the step they were saved at.

    Of several processes each takes its share, whatever their number was when it was saved; all are to call this.
    Raises `BrokenCheckpoint` naming the file when it is not to the last byte what was saved, or the weights or shards
    beside it are not those that were, and `UserError` when some processes can read them and others cannot; nothing is
    restored then.
    """
    step, tensors, noted, of_shards = _read_by_all(path, partial(_read, path))
    shards = Shards(path.parent / SHARDS, of_shards)
    if not shards.are_whole():
        raise BrokenCheckpoint(f"{shards.folder}: its shards are missing, cut short or not those that were saved")

    def read_rest() -> dict[str, Tensor]:
        saved = {key.partition("/")[0] for key in (*tensors, *_names(shards))}
        missing = [name for name in parts if name not in saved]
        if step > 0 and missing:
            raise BrokenCheckpoint(f"{path}: holds no {', '.join(missing)}")
        weights = _weights(trained, path.parent) if trained else {}
        if trained and checksum(weights) != noted:
            raise BrokenCheckpoint(f"{path.parent}: holds other weights than were saved")
        return weights

    weights = _read_by_all(path.parent, read_rest)
    likes: dict[str, Tensor] = {}
    for key in shards.names:
        name, _, of_part = key.partition("/")
        part_of_key = parts.get(name)
        if isinstance(part_of_key, Cut):
            likes[key] = part_of_key.like(of_part)
    tensors |= shards.read(likes)
    if trained:
        trained.load(weights)  # before the parts: with an average, the weights themselves are one of those
    for name, part in parts.items():
        part.load({key.removeprefix(f"{name}/"): t for key, t in tensors.items() if key.startswith(f"{name}/")})
    return step


def _read_by_all(place: Path, read: Callable[[], T]) -> T:
    """What every process reads for itself; nobody waits for one that cannot.

    Raises `BrokenCheckpoint` where none of them can, and `UserError` where some can, which would go on without others.
    """
    error: BrokenCheckpoint | None = None
    try:
        result = read()
    except BrokenCheckpoint as raised:
        error = raised
    errors = of_all(None if error is None else str(error))
    if error is not None and all(errors):
        raise error
    for number, message in enumerate(errors):
        if message is not None:
            raise UserError(
                f"{place}: process {number} cannot read what others can ({message}); see that all machines have the "
                "same files there, and run the same command again"
            )
    return result


def _names(shards: Shards) -> Iterable[str]:
    try:
        return shards.names
    except Exception as error:  # a file that cannot be read makes torch raise anything at all
        raise BrokenCheckpoint(f"{shards.folder}: its shards cannot be read ({one_line(error)})") from None


def _weights(trained: SavedWeights, folder: Path) -> dict[str, Tensor]:
    try:
        return trained.read(folder)
    except (SafetensorError, OSError) as error:
        raise BrokenCheckpoint(f"{folder}: its weights are cut short or broken ({one_line(error)})") from None


def _read(path: Path) -> tuple[int, dict[str, Tensor], object, dict[str, int]]:
    """A file's step, its tensors, and the checksums of the weights and of the shards beside it."""
    try:
        with safe_open(path, "pt") as header:
            note = json.loads(header.metadata()["training"])
        step = note["step"]
        written = note["checksum"]
        weights = note["weights"]
        shards = {str(name): int(checksum) for name, checksum in note.get("shards", {}).items()}
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise BrokenCheckpoint(f"{path}: cut short or broken ({one_line(error)})") from None
    except (TypeError, KeyError, ValueError, AttributeError, RecursionError):
        raise BrokenCheckpoint(f"{path}: does not say which step it is of") from None
    if not isinstance(step, int) or step < 0:
        raise BrokenCheckpoint(f"{path}: says that it is of step {step!r:.40}")
    if written != checksum(tensors):
        raise BrokenCheckpoint(f"{path}: holds something else than was saved")
    return step, tensors, weights, shards
