"""LoRA adapters that act on some rows of a batch, as hooks on the layers they were trained on.

Nothing is put into the network, so whatever else is loaded on it (other adapters, quantised layers, offloading) acts as
it did, and taking the hooks off leaves it as it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from contrapose.errors import UserError
from contrapose.runs.adapter_files import Adapter, LowRank


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
                lowered = _lowered(module, inputs[0][rows].to(adapter.down.dtype), adapter.down)
                raised = functional.conv2d if adapter.up.ndim == 4 else functional.linear
                output[rows] += (raised(lowered, adapter.up) * adapter.scale).to(output.dtype)
            return output

        return add

    def _placed(self, name: str, layer: str, device: torch.device) -> LowRank:
        adapter = self._adapters[name][layer]
        if adapter.down.device != device:
            adapter = LowRank(adapter.down.to(device), adapter.up.to(device), adapter.scale)
            self._adapters[name][layer] = adapter
        return adapter


def _lowered(layer: nn.Module, x: Tensor, down: Tensor) -> Tensor:
    """A x, where A of a convolution moves over the image as the layer's own kernel does."""
    if not isinstance(layer, nn.Conv2d):
        return functional.linear(x, down)
    return functional.conv2d(x, down, None, layer.stride, layer.padding, layer.dilation)
