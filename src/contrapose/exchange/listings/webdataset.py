"""Webdataset tars: `KEY.jpg_0.jpg`, `KEY.jpg_1.jpg`, `KEY.label_0.txt` and `KEY.original_prompt.txt`, side by side."""

from __future__ import annotations

import itertools
import os
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from contrapose.containers.left_out import LeftOut, Skip, attempt
from contrapose.containers.stored import InTar
from contrapose.errors import UserError
from contrapose.exchange.listings.listed import (
    Listed,
    Reading,
    caption,
    first_share,
    is_hidden,
    judged,
    number,
    text,
)

_BROKEN = (tarfile.TarError, EOFError, OSError, ValueError, OverflowError, MemoryError, RecursionError)
APART = "other files of its key stand elsewhere in the tar: write it sorted by name (tar --sort=name)"


class _Member(NamedTuple):
    """A file of a tar, whose name is KEY.FIELD.SUFFIX."""

    key: str
    field: str
    stored: InTar


class Sample(NamedTuple):
    """Files that stand side by side with one key, by their fields; `time` counts from 1 how often the key was met."""

    key: str
    fields: dict[str, InTar]
    time: int


def pairs(source: Path, reading: Reading) -> Iterator[Listed | LeftOut]:
    """The samples of one tar, or of all in a folder, by the places of their bytes; no image is read.

    Raises `UserError` for a tar that is compressed, cut short or broken, and for a label that is no number.
    """
    for path in sorted(source.glob("*.tar")) if source.is_dir() else [source]:
        for sample in samples(path):
            name = f"{path.name}:{sample.key}"
            yield attempt(name, pair, name, f"{path}: {sample.key}", sample, reading)


def samples(path: Path) -> Iterator[Sample]:
    """The samples of one tar, hidden files left out; its keys are in memory."""
    times: Counter[str] = Counter()
    for key, members in itertools.groupby(_members(path), lambda member: member.key):
        times[key] += 1
        yield Sample(key, {member.field: member.stored for member in members}, times[key])


def pair(name: str, where: str, sample: Sample, reading: Reading) -> Listed:
    """The pair of one sample; raises `Skip` when it lacks a field, and `UserError` for a label that is no number."""
    fields = sample.fields
    for field in ("jpg_0", "jpg_1", "label_0", "original_prompt"):
        if field not in fields:
            raise Skip(f"has no {field}" + (f"; {APART}" if sample.time > 1 else ""))
    shares = first_share(number(text(fields["label_0"])), "label_0", where)
    images = fields["jpg_0"], fields["jpg_1"]
    return judged(name, caption(text(fields["original_prompt"])), images, shares, reading.ties)


def _members(path: Path) -> Iterator[_Member]:
    """The tar's files in order, forgotten as they are passed."""
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            end = os.fstat(file.fileno()).st_size
            offset = -1
            while (member := tar.next()) is not None:
                tar.members.clear()  # it would keep them all
                # A size below 0 would lead back, for ever, and one beyond the end to nothing.
                if not offset < member.offset < member.offset_data <= member.offset_data + member.size <= end:
                    raise tarfile.ReadError(f"{member.name!a} is said to have {member.size} bytes")
                offset = member.offset
                if member.isreg() and not member.issparse() and not is_hidden(member.name):
                    yield _member(path, member)
            _check_end(path, file, tar.offset)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; check the path") from None
    except _BROKEN as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path}: is cut short, or no uncompressed tar ({reason}); fetch or write it again") from None


def _check_end(path: Path, file: BinaryIO, offset: int) -> None:
    """Python's reader takes a broken header for the end; a whole tar ends with zeros, or with the file."""
    file.seek(offset)
    if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
        raise UserError(f"{path}: is cut short or broken at byte {offset}; fetch or write it again")


def _member(path: Path, member: tarfile.TarInfo) -> _Member:
    """A key ends, as webdataset has it, at the first dot of the file's own name."""
    folder, slash, file = member.name.rpartition("/")
    stem, _, rest = file.partition(".")
    stored = InTar(path, member.name, member.offset_data, member.size)
    return _Member(folder + slash + stem, rest.split(".")[0], stored)
