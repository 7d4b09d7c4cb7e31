"""Files of tensors with the same bytes whenever the same is written, whole or absent."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from contrapose.files import replacing

NOTES = "__metadata__"
"""What a header calls the notes."""
COUNT = 8
"""Bytes at the start of a file that tell how long its header is."""


def save_tensors(path: Path, tensors: Mapping[str, Tensor], notes: Mapping[str, str] | None = None) -> None:
    """Write tensors of any device, and `notes` in the header of the file, as safetensors.

    Raises `UserError` as `replacing` does.
    """
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with replacing(path) as aside:
        save_file(plain, aside, metadata=dict(notes or {}))
        sort_notes(aside)


def checksum(tensors: Mapping[str, Tensor]) -> int:
    """A CRC-32 of all tensors with their names, kinds and shapes."""
    checksum = 0
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        checksum = zlib.crc32(f"{name} {value.dtype} {tuple(value.shape)}".encode(), checksum)
        checksum = zlib.crc32(value.reshape(-1).view(torch.uint8).numpy().data, checksum)
    return checksum


def is_cut(tensor: Tensor) -> bool:
    """Whether this is one process's shard of a tensor that is cut up over several."""
    return hasattr(tensor, "full_tensor")


def in_one_piece(tensor: Any) -> Tensor:
    """The whole of a tensor that is cut up, which all processes are to ask for; else the tensor itself."""
    gathered: Tensor = tensor.full_tensor() if is_cut(tensor) else tensor
    return gathered


def cut_as(tensor: Tensor, like: Any) -> Tensor:
    """This process's shard of a whole tensor, cut as the other one is; the tensor itself where that is whole too."""
    if is_cut(tensor) or not is_cut(like):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    # each process has the whole, and takes what is its own of it
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)


def sort_notes(path: Path) -> None:
    """Put the notes in a header into the order of their names: the library writes them in a random one.

    Nothing moves, since the header keeps its length.
    """
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(COUNT), "little")
        header = json.loads(file.read(length))
        if NOTES in header:
            header[NOTES] = dict(sorted(header[NOTES].items()))
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode().ljust(length)
        assert len(text) == length, "the same values in another order"
        file.seek(COUNT)
        file.write(text)
