"""LoRA adapters that act on some rows of a batch, as hooks on the layers they were trained on.

Nothing is put into the network, so whatever else is loaded on it (other adapters, quantised layers, offloading) acts as
it did, and taking the hooks off leaves it as it was.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from contrapose.backbones.loading import LORA_FILE, PEFT_CONFIG, PEFT_FILE
from contrapose.errors import UserError

_ENDS = (".lora_A.weight", ".lora_B.weight")


class LowRank(NamedTuple):
    """y += scale B A x on one layer."""

    down: Tensor
    up: Tensor
    scale: float


Adapter = Mapping[str, LowRank]


def has_adapter(folder: Path) -> bool:
    """Whether a run's folder holds adapters."""
    return (folder / LORA_FILE).is_file() or (folder / PEFT_FILE).is_file()


def read_adapter(folder: Path, part: str, network: nn.Module) -> dict[str, LowRank]:
    """A run's adapters by layer, in the network's precision; raises as `stored_adapter` does."""
    layers, dtype = stored_adapter(folder, part, network)[0], network.dtype
    return {name: LowRank(one.down.to(dtype), one.up.to(dtype), one.scale) for name, one in layers.items()}


def stored_adapter(folder: Path, part: str, network: nn.Module) -> tuple[dict[str, LowRank], dict[str, Any]]:
    """A run's adapters by layer as they are stored, and peft's settings of them.

    Raises `UserError` when the file is broken, or was trained on another family, rank or width.
    """
    own = (folder / LORA_FILE).is_file()
    path = folder / (LORA_FILE if own else PEFT_FILE)
    prefix = f"{part}." if own else "base_model.model."
    try:
        tensors = load_file(path)
        settings = _settings(path, folder, part, own)
        rank, alpha = int(settings["r"]), float(settings["lora_alpha"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: broken, or not written by Contrapose ({error})") from error
    layers = dict(network.named_modules())
    found = {}
    for name in sorted({key.removesuffix(end) for key in tensors for end in _ENDS if key.endswith(end)}):
        down, up = (tensors.get(f"{name}{end}") for end in _ENDS)
        layer = layers.get(name.removeprefix(prefix)) if name.startswith(prefix) else None
        if down is None or up is None or not _fits(layer, down, up, rank):
            raise UserError(f"{path}: does not fit this model at {name}; was it trained on another one?")
        found[name.removeprefix(prefix)] = LowRank(down, up, alpha / rank)
    if not found:
        raise UserError(f"{path}: holds no adapters of this model's {part}")
    return found, settings


def _settings(path: Path, folder: Path, part: str, own: bool) -> dict[str, Any]:
    if not own:
        return json.loads((folder / PEFT_CONFIG).read_text(encoding="utf-8"))
    with safe_open(path, "pt") as header:
        settings = json.loads((header.metadata() or {})["lora_adapter_metadata"])
    return {name.removeprefix(f"{part}."): value for name, value in settings.items()}


def _fits(layer: nn.Module | None, down: Tensor, up: Tensor, rank: int) -> bool:
    inputs, outputs = getattr(layer, "in_features", None), getattr(layer, "out_features", None)
    return tuple(down.shape) == (rank, inputs) and tuple(up.shape) == (outputs, rank)


def is_compiled(network: nn.Module) -> bool:
    """Whether torch.compile has been at a network or at layers of it."""
    return any(hasattr(part, "_orig_mod") or part._compiled_call_impl is not None for part in network.modules())


def eagerly() -> AbstractContextManager[Any]:
    """As written rather than as compiled, whose code does not notice hooks that come after it."""
    if not hasattr(torch.compiler, "set_stance"):
        raise UserError("guiding a compiled network needs torch 2.6 or newer; use the pipeline without torch.compile")
    return torch.compiler.set_stance("force_eager")


class RowAdapters:
    """Named adapters on one network; which rows each acts on is said for one forward at a time."""

    def __init__(self, adapters: Mapping[str, Adapter]):
        self._adapters = {name: dict(adapter) for name, adapter in adapters.items()}
        self._acting: Sequence[tuple[str, slice]] = ()

    def __contains__(self, name: str) -> bool:
        return name in self._adapters

    @contextmanager
    def on(self, network: nn.Module) -> Iterator[None]:
        """Hook the adapters' layers, and take the hooks off at the end whatever happens."""
        layers = dict(network.named_modules())
        names = {name for adapter in self._adapters.values() for name in adapter}
        handles = [layers[name].register_forward_hook(self._hook(name)) for name in names]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def acting(self, rows: Sequence[tuple[str, slice]]) -> Iterator[None]:
        """Adapters on these rows, and none after."""
        self._acting = [(name, some) for name, some in rows if name in self._adapters]
        try:
            yield
        finally:
            self._acting = ()

    def _hook(self, layer: str) -> Any:
        def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            wanted = [(name, rows) for name, rows in self._acting if layer in self._adapters[name]]
            if not wanted:
                return output
            output = output.clone()
            for name, rows in wanted:
                adapter = self._placed(name, layer, inputs[0].device)
                lowered = functional.linear(inputs[0][rows].to(adapter.down.dtype), adapter.down)
                output[rows] += (functional.linear(lowered, adapter.up) * adapter.scale).to(output.dtype)
            return output

        return add

    def _placed(self, name: str, layer: str, device: torch.device) -> LowRank:
        adapter = self._adapters[name][layer]
        if adapter.down.device != device:
            adapter = LowRank(adapter.down.to(device), adapter.up.to(device), adapter.scale)
            self._adapters[name][layer] = adapter
        return adapter
