"""FLOPs and bytes of operations on tensors without values, each kind of which is run but once.

PyTorch finds the shapes of most results in Python, which would take most of an estimate's time, and a network's blocks
are much alike: what an operation made of arguments of some shapes is made of storages like them without running it.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


def _convolution_backward(gradient: Tensor, inputs: Tensor, weight: Tensor, *rest: Any, **_: Any) -> int:
    """As much as the forward for either gradient that is asked for; PyTorch's own formula forgets the groups."""
    # convolution_backward(gradient, inputs, weight, bias, stride, padding, dilation, transposed, ..., groups, mask)
    transposed = rest[4]
    of_inputs, of_weight, _of_bias = rest[7]
    larger = inputs if transposed else gradient
    forward = 2 * larger.numel() * weight[0].numel()
    return int(forward * (of_inputs + of_weight))


_FORMULAS = {**flop_registry, torch.ops.aten.convolution_backward: _convolution_backward}


class Meter(TorchDispatchMode):
    """FLOPs, bytes alive of all storages made inside, and the most there were at once.

    PyTorch's own FlopCounterMode holds on to what checkpointing would let go, so only its formulas are used.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0
        self.bytes = 0
        self.peak = 0
        self._alive: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        try:
            kind = (func, _kind_of(args), _kind_of(kwargs))
            record = _records.get(kind)
        except TypeError:  # an argument that is no key
            return self._run(func, args, kwargs)[0]
        if record is None:
            result, flops = self._run(func, args, kwargs)
            if kind not in _records:
                _records[kind] = _record_of(result, (args, kwargs), flops)
            return result
        tensors = tuple(new and new.made() for new in record.news)
        for tensor in _tensors(tensors):
            self._add(storage_key(tensor), tensor.untyped_storage())
        self.peak = max(self.peak, self.bytes)
        self.flops += record.flops
        return tensors if record.is_tuple else tensors[0]

    def _run(self, func: Any, args: Any, kwargs: Any) -> tuple[Any, int]:
        """The operation's result and FLOPs, both counted."""
        result = func(*args, **kwargs)
        of_arguments = {storage_key(tensor) for tensor in _tensors((args, kwargs))}
        for tensor in _tensors(result):
            key = storage_key(tensor)
            if tensor.device.type == "meta" and key not in of_arguments and key not in self._alive:
                self._add(key, tensor.untyped_storage())
        self.peak = max(self.peak, self.bytes)
        formula = _FORMULAS.get(func.overloadpacket)
        flops = formula(*args, **kwargs, out_val=result) if formula else 0
        self.flops += flops
        return result, flops

    def _add(self, key: int, storage: torch.UntypedStorage) -> None:
        """Count a storage until its last tensor is gone."""
        size = storage.nbytes()
        self._alive.add(key)
        self.bytes += size

        def remove() -> None:
            self._alive.discard(key)
            self.bytes -= size

        weakref.finalize(storage, remove)


@dataclass(frozen=True)
class _New:
    """A tensor that an operation makes in a storage of its own."""

    size: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype

    def made(self) -> Tensor:
        return torch.empty_strided(self.size, self.stride, dtype=self.dtype, device="meta")


@dataclass(frozen=True)
class _Record:
    """What an operation makes of arguments of some kind, and its FLOPs."""

    news: tuple[_New | None, ...]  # None for a gradient that was not asked for
    is_tuple: bool
    flops: int


# By operation and kind of its arguments; None for those that have to run each time.
_records: dict[Any, _Record | None] = {}


def _kind_of(value: Any) -> Any:
    """All that the shapes of an operation's results can depend on."""
    if type(value) in (Tensor, Parameter):
        return value.shape, value.stride(), value.dtype, value.device
    if isinstance(value, list | tuple):
        return tuple([_kind_of(each) for each in value])
    if isinstance(value, dict):
        return tuple([(name, _kind_of(each)) for name, each in value.items()])
    if isinstance(value, Tensor):
        raise TypeError(f"{type(value).__name__} may hold more than a shape")
    return type(value), value  # 1, 1.0 and True are equal, and make other tensors


def _record_of(result: Any, arguments: Any, flops: int) -> _Record | None:
    """How a result is made again; None where it is, or may be, more than tensors with storages of their own."""
    tensors = result if type(result) is tuple else (result,)
    storages = {storage_key(argument) for argument in _tensors(arguments)}
    news: list[_New | None] = []
    for tensor in tensors:
        if tensor is None:
            news.append(None)
            continue
        if type(tensor) is not Tensor or tensor.device.type != "meta" or storage_key(tensor) in storages:
            return None
        new = _New(tensor.shape, tensor.stride(), tensor.dtype)
        if new.made().untyped_storage().nbytes() != tensor.untyped_storage().nbytes():
            return None
        news.append(new)
        storages.add(storage_key(tensor))
    return _Record(tuple(news), type(result) is tuple, flops) if any(news) else None


def _tensors(value: Any) -> list[Tensor]:
    """The tensors among what an operation takes or gives."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, list | tuple):
        return [tensor for each in value for tensor in _tensors(each)]
    return _tensors(tuple(value.values())) if isinstance(value, dict) else []


def storage_key(tensor: Tensor) -> int:
    """Which storage a tensor has, of those that are alive."""
    return tensor.untyped_storage()._cdata
