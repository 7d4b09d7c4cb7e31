"""What lies at a path, as a short digest: the same wherever it lies and under any name, another when it changes.

A command notes the digests of all that it reads beside its result, so that one that is run again never mixes the
results of two inputs that have one name.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from contrapose.errors import UserError

_WHOLE = 1 << 24  # bytes up to which a file counts whole
_PIECES = 1024  # of a larger file that count: its start, its end, and evenly spaced ones between
_PIECE = 1 << 12  # bytes of each


def digest_of(path: Path, skip: Path | None = None) -> str:
    """A digest of a file, or of all files in a folder with their names; hidden ones, and those in `skip`, do not count.

    A file of more than 16 MB counts by its size and by evenly spaced pieces, a megabyte in every few gigabytes. Raises
    `UserError` when there is nothing at `path`.
    """
    if path.is_file():
        return digest_of_parts([file_digest(path)])
    if not path.is_dir():
        raise UserError(f"{path}: no such file or folder")
    left_out = skip.resolve() if skip else None
    parts = []
    for file in sorted(path.rglob("*")):
        name = file.relative_to(path)
        hidden = any(part.startswith(".") for part in name.parts)
        if hidden or not file.is_file() or (left_out and file.resolve().is_relative_to(left_out)):
            continue
        parts.append(f"{name.as_posix()} {file_digest(file)}")
    return digest_of_parts(parts)


def digest_of_parts(parts: Iterable[object]) -> str:
    """A digest of several things in their order, as they are printed."""
    text = "\x1f".join(map(str, parts))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def digest_of_json(*parts: object) -> str:
    """64 hexadecimal digits by which a cache knows an answer: of all that decides it, as JSON holds that."""
    return hashlib.sha256(json.dumps(parts).encode("ascii")).hexdigest()


def file_digest(path: Path, pieces: int | None = None) -> str:
    """A digest of one file's bytes, or of its size and pieces where it is large.

    With `pieces`, two at least, that many of 4 kB each count of a file of any size, beside its size.
    """
    with path.open("rb") as file:
        return _digest(file, path.stat().st_size, pieces)


def bytes_digest(*parts: bytes | memoryview) -> str:
    """The digest of a file that holds these bytes, one part after the other."""
    size = sum(map(len, parts))
    if size > _WHOLE:
        return _digest(io.BytesIO(b"".join(parts)), size)
    # as `_digest` does of a file that counts whole, without putting the parts together
    digest = hashlib.sha256(str(size).encode())
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:16]


def _digest(file: BinaryIO, size: int, pieces: int | None = None) -> str:
    """The digest of a file of this size."""
    digest = hashlib.sha256()
    most = _WHOLE if pieces is None else pieces * _PIECE
    num_pieces = _PIECES if pieces is None else pieces
    digest.update(str(size).encode())
    if size <= most:
        digest.update(file.read())
    else:
        for piece in range(num_pieces):
            file.seek((size - _PIECE) * piece // (num_pieces - 1))
            digest.update(file.read(_PIECE))
    return digest.hexdigest()[:16]
