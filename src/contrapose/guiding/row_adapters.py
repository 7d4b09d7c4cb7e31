"""Adapters that act on some rows of a batch, as hooks on the layers they were trained on.

A policy acts whole on its rows, and guidance combines predictions, so that every kind of adapter has its meaning:
DoRA's norm is that of the base's own weight with this policy's change, whatever other rows see.

No weights are put into the network, so anything else that is loaded on it (other adapters, quantised layers,
offloading) acts as before, and removing the hooks leaves the network as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from peft.utils.integrations import dequantize_module_weight
from torch import Tensor, nn
from torch.nn import functional

from contrapose.errors import UserError
from contrapose.runs.adapter_files import Adapter
from contrapose.runs.adapter_layers import LayerAdapter, LowRank


def is_compiled(network: nn.Module) -> bool:
    """Whether torch.compile wraps a network or a layer of it, or has compiled one in place."""
    return any(hasattr(part, "_orig_mod") or part._compiled_call_impl is not None for part in network.modules())


def eagerly() -> AbstractContextManager[Any]:
    """A block in which compiled networks run as they are written: compiled code ignores hooks added after it."""
    if not hasattr(torch.compiler, "set_stance"):
        raise UserError("guiding a compiled network needs torch 2.6 or newer; use the pipeline without torch.compile")
    return torch.compiler.set_stance("force_eager")


class RowAdapters:
    """Named adapters on one network, each acting on the rows of the batch that `acting` gives it."""

    def __init__(self, adapters: Mapping[str, Adapter]):
        # copies of the mappings alone: `_placed` puts layers back that it has moved to a device
        self._adapters = {name: dict(adapter) for name, adapter in adapters.items()}
        self._acting: Sequence[tuple[str, slice]] = ()

    def __contains__(self, name: str) -> bool:
        return name in self._adapters

    @contextmanager
    def on(self, network: nn.Module) -> Iterator[None]:
        """Hook the adapters' layers, and remove the hooks when the block ends or fails."""
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
        """Let adapters act on their rows inside the block; other names, such as the base's, are passed over."""
        self._acting = [(name, place) for name, place in rows if name in self._adapters]
        try:
            yield
        finally:
            self._acting = ()

    def _hook(self, layer: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        """A forward hook that adds scale B A x, or what another kind changes, to the output on each adapter's rows."""

        def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            wanted = [(name, rows) for name, rows in self._acting if layer in self._adapters[name]]
            if not wanted:
                return output
            # a layer may hand out what it keeps, or its input: what it gave stays as it is
            output = output.clone()
            base = getattr(module, "base_layer", module)  # of a layer with other adapters, itself
            for name, rows in wanted:
                adapter = self._placed(name, layer, inputs[0].device)
                x = inputs[0][rows]
                added = _low_rank(adapter, base, x) if isinstance(adapter, LowRank) else _dense(adapter, base, x)
                output[rows] += added.to(output.dtype)
            return output

        return add

    def _placed(self, name: str, layer: str, device: torch.device) -> LayerAdapter:
        """An adapter's layer on the device of its input, moved once: under offloading it is known at the call alone."""
        adapter = self._adapters[name][layer]
        if next(iter(adapter.tensors().values())).device != device:
            adapter = adapter.cast(lambda value: value.to(device))
            self._adapters[name][layer] = adapter
        return adapter


def _low_rank(adapter: LowRank, layer: nn.Module, inputs: Tensor) -> Tensor:
    x = inputs.to(adapter.down.dtype)
    if isinstance(layer, nn.Conv2d):
        # A moves over the image as the layer's own kernel does; B is one pixel large
        lowered = functional.conv2d(x, adapter.down, None, layer.stride, layer.padding, layer.dilation)
    else:
        lowered = functional.linear(x, adapter.down)
    raised = functional.conv2d if adapter.up.ndim == 4 else functional.linear
    return raised(lowered, adapter.up) * adapter.scale


def _dense(adapter: LayerAdapter, layer: nn.Module, inputs: Tensor) -> Tensor:
    """What a change of the whole weight adds, made anew at each call: it is as large as the layer."""
    weight = dequantize_module_weight(layer)
    if weight.is_meta and adapter.kind == "dora":
        raise UserError(
            "guidance by a DoRA needs the weights that it goes with, and offloading has taken them away; use "
            "enable_model_cpu_offload() instead of enable_sequential_cpu_offload()"
        )
    change = adapter.change(weight)
    x = inputs.to(change.dtype)
    if isinstance(layer, nn.Conv2d):
        return functional.conv2d(x, change, None, layer.stride, layer.padding, layer.dilation)
    return functional.linear(x, change)
