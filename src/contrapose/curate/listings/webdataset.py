"""Webdataset tars: `KEY.jpg_0.jpg`, `KEY.jpg_1.jpg`, `KEY.label_0.txt` and `KEY.original_prompt.txt`, side by side."""

from __future__ import annotations

import itertools
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from contrapose.curate.images import Skip
from contrapose.curate.listings.listed import Left, Listed, Reading, caption, first_share, judged, number, one
from contrapose.curate.stored import InTar
from contrapose.errors import UserError

_LONGEST_TEXT = 1 << 16  # bytes of a caption or label


class _Member(NamedTuple):
    """A file of a tar, whose name is KEY.FIELD.SUFFIX."""

    key: str
    field: str
    stored: InTar


def pairs(source: Path, reading: Reading) -> Iterator[Listed | Left]:
    """The samples of one tar, or of all in a folder, by the places of their bytes; no image is read.

    Raises `UserError` for a tar that is compressed, cut short or broken, and for a label that is no number.
    """
    for path in sorted(source.glob("*.tar")) if source.is_dir() else [source]:
        for key, fields in samples(path):
            name = f"{path.name}:{key}"
            yield one(name, pair, name, f"{path}: {key}", fields, reading)


def samples(path: Path) -> Iterator[tuple[str, dict[str, InTar]]]:
    """Keys and fields of the files that stand side by side with one key."""
    for key, members in itertools.groupby(_members(path), lambda member: member.key):
        yield key, {member.field: member.stored for member in members}


def pair(name: str, where: str, fields: dict[str, InTar], reading: Reading) -> Listed:
    """The pair of one sample; raises `Skip` when it lacks a field, and `UserError` for a label that is no number."""
    for field in ("jpg_0", "jpg_1", "label_0", "original_prompt"):
        if field not in fields:
            raise Skip(f"has no {field}")
    shares = first_share(number(text(fields["label_0"])), "label_0", where)
    images = fields["jpg_0"], fields["jpg_1"]
    return judged(name, caption(text(fields["original_prompt"])), images, shares, reading.ties)


def text(stored: InTar) -> str:
    """A caption or label; raises `Skip` when it is too long for one, or not UTF-8."""
    if stored.size > _LONGEST_TEXT:
        raise Skip(f"{stored.member}: is too long for a text")
    try:
        return stored.read().decode("utf-8").strip()
    except UnicodeDecodeError:
        raise Skip(f"{stored.member}: is not readable as UTF-8") from None


def _members(path: Path) -> Iterator[_Member]:
    """The tar's files in order, forgotten as they are passed."""
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # it would keep them all
                if member.isreg() and not member.issparse():
                    yield _member(path, member)
            _check_end(path, file, tar.offset)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; check the path") from None
    except (tarfile.TarError, EOFError) as error:
        raise UserError(f"{path}: is cut short, or no uncompressed tar ({error}); fetch or write it again") from None


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
