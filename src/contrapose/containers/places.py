"""Where data lies: a path on this machine, or one on another that fsspec reads, such as hf://datasets/OWNER/NAME."""

from __future__ import annotations

import errno
import os
import posixpath
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple, cast

import fsspec

from contrapose.containers.left_out import Skip
from contrapose.contents import digest_of, file_digest
from contrapose.errors import UserError, one_line

PROTOCOLS = ("hf", "s3", "memory")
_HIDDEN = (".", "__MACOSX")


@dataclass(frozen=True, slots=True)
class Remote:
    """A path on another machine, with as much of `pathlib.Path` as readers ask for; its errors are all `OSError`."""

    protocol: str
    path: PurePosixPath

    def __str__(self) -> str:
        return f"{self.protocol}://{self.path}"

    def __truediv__(self, name: str | PurePosixPath) -> Remote:
        return Remote(self.protocol, self.path / name)

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def suffix(self) -> str:
        return self.path.suffix

    @property
    def parent(self) -> Remote:
        return Remote(self.protocol, self.path.parent)

    def open(self, mode: str = "rb") -> BinaryIO:
        """The file, read piece by piece as it is asked for."""
        with _as_os_errors(self):
            return cast(BinaryIO, _file_system(self.protocol).open(str(self.path), mode))

    def read_bytes(self) -> bytes:
        with _as_os_errors(self), self.open() as file:
            return file.read()

    def read_range(self, start: int, end: int) -> bytes:
        """The bytes from `start` on and before `end`, fewer where the file ends."""
        with _as_os_errors(self):
            return bytes(_file_system(self.protocol).cat_file(str(self.path), start=start, end=end))

    def exists(self) -> bool:
        with _as_os_errors(self):
            return bool(_file_system(self.protocol).exists(str(self.path)))

    def is_file(self) -> bool:
        with _as_os_errors(self):
            return bool(_file_system(self.protocol).isfile(str(self.path)))

    def is_dir(self) -> bool:
        with _as_os_errors(self):
            return bool(_file_system(self.protocol).isdir(str(self.path)))

    def size(self) -> int:
        with _as_os_errors(self):
            return int(_file_system(self.protocol).size(str(self.path)))

    def version(self) -> str:
        """What changes when the file does, as far as its keeper tells."""
        with _as_os_errors(self):
            return str(_file_system(self.protocol).ukey(str(self.path)))

    def glob(self, pattern: str) -> Iterator[Remote]:
        with _as_os_errors(self):
            names = _file_system(self.protocol).glob(f"{self.path}/{pattern}")
        return (Remote(self.protocol, PurePosixPath(name.lstrip("/"))) for name in names)


Place = Path | Remote


class Entry(NamedTuple):
    """What a folder holds under one name."""

    place: Place
    is_folder: bool
    is_link_to_folder: bool = False

    @property
    def name(self) -> str:
        return self.place.name


def place_of(path: Place) -> Place:
    """The place that a path means: `Path` makes hf:/datasets of hf://datasets, which no file on this machine is."""
    if isinstance(path, Remote):
        return path
    protocol, colon, rest = path.as_posix().partition(":/")
    if colon and protocol in PROTOCOLS:
        return Remote(protocol, PurePosixPath(rest.lstrip("/")))
    return path


def name_below(place: Place, root: Place) -> str:
    """A place's name as it is told from `root`."""
    if isinstance(place, Remote) and isinstance(root, Remote):
        return place.path.relative_to(root.path).as_posix()
    assert isinstance(place, Path) and isinstance(root, Path), "both are here, or both there"
    return place.relative_to(root).as_posix()


def spelled_out(name: str) -> str:
    """A file's name as every file can hold it: bytes that are not UTF-8 are spelled out, as in caf\\xe9.txt."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def size_of(place: Place) -> int:
    """The bytes of a file."""
    return place.size() if isinstance(place, Remote) else place.stat().st_size


def file_digest_at(place: Place, pieces: int | None = None) -> str:
    """The digest of one file, as `file_digest` has it; of one on another machine its version."""
    return place.version() if isinstance(place, Remote) else file_digest(place, pieces)


def digest_at(path: Path) -> str:
    """The digest of what lies at a path, here or elsewhere; raises `UserError` when there is nothing."""
    place = place_of(path)
    if not isinstance(place, Remote):
        return digest_of(path)
    try:
        return place.version()
    except OSError as error:
        raise UserError(f"{place}: cannot be read ({error.strerror or error}); check the path") from None


def entries(folder: Place) -> list[Entry]:
    """What a folder holds, sorted by name, without hidden files and those that macOS adds to archives."""
    if isinstance(folder, Remote):
        with _as_os_errors(folder):
            listed = _file_system(folder.protocol).ls(str(folder.path), detail=True)
        held = [Entry(folder / PurePosixPath(info["name"]).name, info["type"] == "directory") for info in listed]
    else:
        held = []
        with os.scandir(folder) as scanned:
            for entry in scanned:
                leads_to_folder = entry.is_symlink() and Path(entry.path).is_dir()
                held.append(Entry(Path(entry.path), entry.is_dir(follow_symlinks=False), leads_to_folder))
    shown = [entry for entry in held if not is_hidden(entry.name)]
    return sorted(shown, key=lambda entry: entry.name)


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden, as are those that macOS adds to archives."""
    return any(part.startswith(_HIDDEN) for part in name.split("/") if part not in (".", ".."))


class Missing(Skip):
    """There is no file of this name."""


def inside(folder: Place, name: str) -> Place:
    """The file of this name in or below the folder; raises `Missing`, and `Skip` when it leads out of the folder.

    Both ways to write an accent, as a letter of its own or not, are one name.
    """
    # As it is written first: most names are found at once, and each look at a remote folder is a request.
    for form in dict.fromkeys((name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD")))):
        try:
            if isinstance(folder, Remote):
                below = not posixpath.normpath(form).startswith(("..", "/"))
                exists = below and (folder / form).is_file()
            else:
                resolved = (folder / form).resolve()
                below = any(resolved.is_relative_to(root) for root in _roots(folder.absolute()))
                exists = below and resolved.is_file()
        except (OSError, RuntimeError, ValueError):  # a loop of links, a name too long, a NUL
            continue
        if not below:
            points_out = Path(name).is_absolute() or ".." in Path(name).parts
            how = "leaves the folder" if points_out else "is a link that leads out of the folder"
            raise Skip(f"{name}: {how}")
        if exists:
            return folder / form
    raise Missing(f"{name}: no such file" + ("; write / between folders, not \\" if "\\" in name else ""), "missing")


@lru_cache(maxsize=16)
def _roots(folder: Path) -> tuple[Path, ...]:
    """The folder, and where it is a snapshot in the hub's cache, the files that the snapshot's links stand for.

    Looked up once, not for each of a million files.
    """
    for parent in (folder, *folder.parents):
        if parent.parent.name == "snapshots" and (blobs := parent.parent.parent / "blobs").is_dir():
            return folder.resolve(), blobs.resolve()
    return (folder.resolve(),)


@lru_cache(maxsize=8)
def _file_system(protocol: str) -> Any:
    try:
        return fsspec.filesystem(protocol)
    except (ImportError, ValueError) as error:
        raise UserError(f"{protocol}://: cannot be read ({error}); install what it says, or fetch the files") from None


@contextmanager
def _as_os_errors(place: Remote) -> Iterator[None]:
    """Whatever a network and its libraries raise becomes `OSError` with the place's name, as a disk's errors are."""
    try:
        yield
    except (FileNotFoundError, UserError):
        raise
    except Exception as error:
        if getattr(error, "filename", None) is not None:
            raise
        raise OSError(errno.EIO, one_line(error), str(place)) from None
