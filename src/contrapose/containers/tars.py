"""Webdataset tars: files of one key, KEY.FIELD.ENDING, side by side are a sample; nothing is unpacked."""

from __future__ import annotations

import itertools
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from contrapose.containers.places import Place, is_hidden, size_of
from contrapose.containers.row import ContainerRow
from contrapose.containers.stored import InTar
from contrapose.errors import UserError

COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_BROKEN = (tarfile.TarError, EOFError, OSError, ValueError, OverflowError, MemoryError, RecursionError)
_APART = "other files of its key stand elsewhere in the tar: write it sorted by name (tar --sort=name)"


class _Member(NamedTuple):
    """A file of a tar, whose name is KEY.FIELD.SUFFIX."""

    key: str
    field: str
    stored: InTar


def tar_rows(path: Place, needs: Sequence[str] = ()) -> Iterator[ContainerRow]:
    """The samples by the places of their files, hidden ones left out; the keys of this one tar are in memory.

    A field is the part of the name after the key, in small letters. A key that is met again is another sample, whose
    name says so. Raises `UserError` for a tar that is compressed, cut short or broken.
    """
    times: Counter[str] = Counter()
    for key, members in itertools.groupby(_members(path), lambda member: member.key):
        times[key] += 1
        again = times[key] > 1
        place = f"{key} ({times[key]})" if again else key
        fields = {member.field.lower(): member.stored for member in members}
        hint = f"; {_APART}" if again else ""
        yield ContainerRow(path, place, fields, joint=":", alone=False, typed=False, loose=True, hint=hint)


def check_uncompressed(place: Place) -> None:
    """Raise `UserError` for a compressed tar, by its name."""
    if place.name.lower().endswith(COMPRESSED):
        raise UserError(f"{place}: is a compressed tar, in which no image can be found by its place; uncompress it")


def _members(path: Place) -> Iterator[_Member]:
    """The tar's files in order; none is kept in memory after it was yielded."""
    end = size_of(path)
    with path.open("rb") as file:
        try:
            tar = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115
            offset = -1
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # it would keep them all
                # A size below 0 would lead back, for ever, and one beyond the end to nothing.
                if not offset < member.offset < member.offset_data <= member.offset_data + member.size <= end:
                    raise tarfile.ReadError(f"{member.name!a} is said to have {member.size} bytes")
                offset = member.offset
                if member.isreg() and not member.issparse() and not is_hidden(member.name):
                    yield _member(path, member)
            # Python's reader takes a broken header for the end; a whole tar ends with zeros, or with the file.
            file.seek(tar.offset)
            if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
                raise UserError(f"{path}: is cut short or broken at byte {tar.offset}; fetch or write it again")
        except _BROKEN as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(
                f"{path}: is cut short, or no uncompressed tar ({reason}); fetch or write it again"
            ) from None


def _member(path: Place, member: tarfile.TarInfo) -> _Member:
    """A key ends, as webdataset has it, at the first dot of the file's own name."""
    folder, slash, file = member.name.rpartition("/")
    stem, _, rest = file.partition(".")
    stored = InTar(path, member.name, member.offset_data, member.size)
    return _Member(folder + slash + stem, rest.split(".")[0], stored)
