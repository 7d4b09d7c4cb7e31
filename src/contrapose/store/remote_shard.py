"""A shard on another machine, of which no more is fetched than is asked for: its header, and then a latent at a time.

It is read as `safetensors.safe_open` reads a file on this machine: `keys`, `metadata`, and slices of tensors.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from contrapose.containers.places import Remote
from contrapose.tensors import COUNT, NOTES

_FIRST = 1 << 16  # bytes that are fetched at first, which most headers are within
_LONGEST = 100_000_000  # bytes of a header, as the format has it
_DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "U8": torch.uint8}


@dataclass(frozen=True)
class RemoteSlice:
    """One tensor, which is indexed as far as shards are: at its first axes, or by a slice of the first one."""

    place: Remote
    dtype: str
    shape: tuple[int, ...]
    start: int
    """Where it begins in the file."""

    def get_dtype(self) -> str:
        return self.dtype

    def get_shape(self) -> list[int]:
        return list(self.shape)

    def __getitem__(self, index: int | tuple[int, ...] | slice) -> Tensor:
        if isinstance(index, slice):
            first, last, _ = index.indices(self.shape[0])
            return self._read(first * math.prod(self.shape[1:]), (last - first, *self.shape[1:]))
        places = index if isinstance(index, tuple) else (index,)
        number = 0
        for place, size in zip(places, self.shape, strict=False):
            number = number * size + place
        shape = self.shape[len(places) :]
        return self._read(number * math.prod(shape), shape)

    def _read(self, before: int, shape: tuple[int, ...]) -> Tensor:
        """What stands after so many numbers."""
        kind = _DTYPES[self.dtype]
        begin = self.start + before * kind.itemsize
        size = math.prod(shape) * kind.itemsize
        data = self.place.read_range(begin, begin + size)
        if len(data) != size:
            raise OSError(f"{self.place}: is cut short")
        return torch.frombuffer(bytearray(data), dtype=kind).view(shape)


class RemoteShard:
    """A shard whose header is here.

    Raises `ValueError` for a file that is no whole safetensors, and `OSError` for one that cannot be read.
    """

    def __init__(self, place: Remote):
        beginning = place.read_range(0, _FIRST)
        length = int.from_bytes(beginning[:COUNT], "little")
        header = beginning[COUNT : COUNT + length]
        if len(header) < length <= _LONGEST:
            header += place.read_range(len(beginning), COUNT + length)
        if len(header) != length:
            raise ValueError("its header is cut short")
        fields: Any = json.loads(header)
        self._notes: dict[str, str] = fields.pop(NOTES, {})
        self._tensors: dict[str, RemoteSlice] = {}
        first = COUNT + length
        size = first
        for name, field in fields.items():
            begin, end = field["data_offsets"]
            tensor = RemoteSlice(place, field["dtype"], tuple(field["shape"]), first + begin)
            kind = _DTYPES.get(tensor.dtype)
            if kind is not None and end - begin != math.prod(tensor.shape) * kind.itemsize:
                raise ValueError(f"its tensor {name} has another length than its shape")
            self._tensors[name] = tensor
            size = max(size, first + end)
        if size != place.size():
            raise ValueError(f"it has {place.size()} bytes, where its header tells of {size}")

    def keys(self) -> list[str]:
        return list(self._tensors)

    def metadata(self) -> dict[str, str]:
        return self._notes

    def get_slice(self, name: str) -> RemoteSlice:
        """The tensor of this name."""
        return self._tensors[name]
