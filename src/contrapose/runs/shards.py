"""Tensors that are cut up over processes, a safetensors file a process, by torch's distributed checkpoints.

Any number of processes reads them again, each its share. Nothing is pickled: what torch writes beside its own format is
left out of safetensors, and where a shard belongs stands in its file's header.
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, distributed

from contrapose.errors import UserError, one_line
from contrapose.processes import of_all
from contrapose.tensors import sort_notes

_AT_ONCE = 1 << 24  # bytes that are read together


def write_shards(folder: Path, tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Write every process's shards of these tensors, for all processes to call together; checksums by file.

    Raises what the first process raised that could not write, in all of them.
    """
    from torch.distributed import checkpoint
    from torch.distributed.checkpoint.api import CheckpointException

    writer = checkpoint.HuggingFaceStorageWriter(str(folder), save_distributed=True)
    try:
        checkpoint.save(dict(tensors), storage_writer=writer)
    except CheckpointException as error:
        cause, _ = next(iter(error.failures.values()))
        raise cause from None
    files = sorted(folder.iterdir())
    for file in _own(files):
        sort_notes(file)
    return _checksums(files)


class Shards:
    """What `write_shards` wrote into a folder, and the checksums that it gave; none where nothing was cut."""

    def __init__(self, folder: Path, checksums: Mapping[str, int]):
        self.folder = folder
        self._checksums = checksums

    def are_whole(self) -> bool:
        """Whether the files are those that were written, for all processes to ask together."""
        if not self._checksums:
            return True
        return _checksums([self.folder / name for name in sorted(self._checksums)]) == self._checksums

    @property
    def names(self) -> Iterable[str]:
        """The names of the tensors."""
        return self._metadata.keys()

    def read(self, likes: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Every tensor, cut as the one of its name and shape among `likes`, and whole where there is none.

        Raises `UserError` in all processes where one of them cannot read its shards.
        """
        if not self._checksums:
            return {}
        from torch.distributed import checkpoint
        from torch.distributed.checkpoint.api import CheckpointException

        tensors: dict[str, Tensor] = {}
        for name, (shape, dtype) in self._metadata.items():
            like = likes.get(name)
            if like is None or like.shape != shape:
                tensors[name] = torch.empty(shape, dtype=dtype)
            else:
                tensors[name] = torch.empty_like(like, dtype=dtype, requires_grad=False)
        reader = checkpoint.HuggingFaceStorageReader(str(self.folder))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")  # as it is in one process
            try:
                checkpoint.load(tensors, storage_reader=reader, no_dist=not distributed.is_initialized())
            except CheckpointException as error:
                number, (cause, _) = next(iter(error.failures.items()))
                raise UserError(f"{self.folder}: process {number} cannot read its shards ({one_line(cause)})") from None
        return tensors

    @cached_property
    def _metadata(self) -> dict[str, tuple[torch.Size, torch.dtype]]:
        if not self._checksums:
            return {}
        from torch.distributed import checkpoint

        stored = checkpoint.HuggingFaceStorageReader(str(self.folder)).read_metadata().state_dict_metadata
        forms: dict[str, tuple[torch.Size, torch.dtype]] = {}
        for name, value in stored.items():
            assert isinstance(value, checkpoint.TensorStorageMetadata), "safetensors hold nothing else"
            forms[name] = (value.size, value.properties.dtype)
        return forms


def _checksums(files: list[Path]) -> dict[str, int]:
    """A CRC-32 of each file, -1 where it cannot be read, of all processes together."""
    mine = {file.name: _checksum(file) for file in _own(files)}
    return {name: value for of_process in of_all(mine) for name, value in of_process.items()}


def _own(files: list[Path]) -> list[Path]:
    """Those of these files that this process looks after, of several processes each others."""
    if not distributed.is_initialized():
        return files
    return files[distributed.get_rank() :: distributed.get_world_size()]


def _checksum(file: Path) -> int:
    checksum = 0
    try:
        with file.open("rb") as content:
            while chunk := content.read(_AT_ONCE):
                checksum = zlib.crc32(chunk, checksum)
    except OSError:
        return -1
    return checksum
