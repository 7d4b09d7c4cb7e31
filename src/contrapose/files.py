"""Files that are whole or absent, whatever kills the program, and folders that one process at a time writes.

Workers that make the files of one folder together hold it beside one another, and claim each file before they make it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import socket
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import zip_longest
from pathlib import Path
from typing import TextIO

from contrapose.errors import UserError

try:
    import fcntl
except ImportError:  # Windows has other locks; there two writers of one folder are not told apart
    fcntl = None  # type: ignore[assignment]

LOCK = ".contrapose.lock"
CLAIM = ".claim"  # at the end of the name of the lock on one file
CACHE = "CONTRAPOSE_CACHE"  # a folder instead of the user's own cache
# by all of the name: the machines of a cluster often differ in its end alone
_HOST = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:16]
_OF_PROCESS = re.compile(r"\..+\.(?P<host>[^.-]*)-(?P<process>\d+)\.partial")
_FULL = ("No space left on device", "database or disk is full")  # as libraries say it that give no number
_PATIENCE = 10.0  # seconds for which a worker waits for one that is just closing the folder
_UNLOCKABLE = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path to write (a file or a folder), and rename it to `path` when the block ends well.

    What was written is on the disk before it is renamed, with the permissions that the user's umask gives. Raises
    `UserError` when the disk is full, and for a `path` that is neither a plain file nor a folder, such as a device or
    a link; what was at `path` before stays as it was.
    """
    check_replaceable(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = aside_of(path, os.getpid())
    try:
        _remove(aside)
        mode = _usual_mode(aside)
        yield aside
        _settle(aside, mode)
        if aside.is_dir() and path.is_dir():
            _remove(path)
        elif path.is_dir():
            raise UserError(f"{path}: is a folder, where a file is to be written; move it away")
        aside.replace(path)
        _sync(path.parent)
    except BaseException as error:
        with suppress(OSError):
            _remove(aside)
        if is_full(error):
            raise full(path) from error
        if isinstance(error, OSError) and error.filename == str(aside):
            error.filename = str(path)  # the name that the user knows
        raise


@contextmanager
def appending(path: Path) -> Iterator[TextIO]:
    """Yield a file of lines to add to; what was added is with the system when the block ends.

    Raises `UserError` when the disk is full.
    """
    with naming_a_full_disk(path), path.open("a", encoding="utf-8") as file:
        yield file


@contextmanager
def naming_a_full_disk(path: Path) -> Iterator[None]:
    """Raise `UserError` naming `path` where the disk is full: what writing raises names nothing."""
    try:
        yield
    except OSError as error:
        if is_full(error):
            raise full(path) from error
        raise


def write_text(path: Path, text: str) -> bool:
    """Write a file of UTF-8 as `write_bytes` does; what UTF-8 cannot hold becomes question marks."""
    return write_bytes(path, text.encode("utf-8", "replace"))


def write_bytes(path: Path, data: bytes) -> bool:
    """Write a file whole or not at all; one that holds the same already is left as it is, and False is returned."""
    if path.is_file() and not path.is_symlink() and path.read_bytes() == data:
        return False
    with replacing(path) as aside:
        aside.write_bytes(data)
    return True


def write_lines(path: Path, lines: Callable[[], Iterable[bytes]]) -> bool:
    """Write a file whole or not at all, a line in memory at a time, of lines that can be had twice.

    One that holds the same already is left as it is, and False is returned.
    """
    if path.is_file() and not path.is_symlink():
        with path.open("rb") as file:
            if all(line == other for line, other in zip_longest(lines(), file)):
                return False
    with replacing(path) as aside, aside.open("wb") as file:
        file.writelines(lines())
    return True


def aside_of(path: Path, process: int) -> Path:
    """Where a process of this machine writes `path` until it is whole; no two processes write the same file."""
    return path.with_name(f".{path.name}.{_HOST}-{process}.partial")


def discard(path: Path) -> None:
    """Remove a file or a folder so that it is there whole or not at all, whatever kills the program."""
    if path.is_dir() and not path.is_symlink():
        aside = aside_of(path, os.getpid())
        path.rename(aside)
        path = aside
    _remove(path)


def check_replaceable(path: Path) -> None:
    """Raise `UserError` for a path that must not be replaced: devices, pipes, sockets and links."""
    if path.is_symlink():
        raise UserError(f"{path}: is a link, which is not replaced; name the file itself, or another one")
    if path.exists() and not path.is_file() and not path.is_dir():
        raise UserError(f"{path}: is there and is not a regular file; choose another name")


def check_folder(out: Path) -> None:
    """Raise `UserError` for an `--out` at which no folder can be."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is there and is not a folder; choose another --out")


def check_file(out: Path) -> None:
    """Raise `UserError` for an `--out` at which no file can be."""
    check_replaceable(out)
    if out.is_dir():
        raise UserError(f"{out}: is a folder; name a file")


@contextmanager
def one_writer(
    out: Path, *, beside: bool = False, several: bool = False, fix: str = "wait for it, or choose another --out"
) -> Iterator[None]:
    """Hold the folder `out` for this process until the block ends, and clear away what killed processes left in it.

    The lock is a file in the folder; `beside` puts it next to `out`, for one file or a folder that is replaced whole.
    With `several` the folder is held together with other processes that say so too. The lock goes with the block, and
    so do folders that were made for it and in which nothing was written. Where the disk cannot be written, or knows no
    locks, there is none. Raises `UserError` naming the process that holds `out`, and the `fix`.
    """
    folder = out.parent if beside else out
    check_folder(folder)
    lock = folder / (f".{out.name}{LOCK}" if beside else LOCK)
    new_folders = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    handle = None
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            handle = _held_by_several(lock) if several else _locked(lock)
        except _Held:
            raise UserError(f"{out}: {_owner(lock)} is writing here; {fix}") from None
        except OSError as error:
            # What is only read needs no lock, and what is written will say so itself.
            if error.errno not in _UNLOCKABLE:
                raise
        if handle is not None:
            _clear(folder.glob(f".{out.name}.*.partial") if beside else folder.rglob(".*"))
        yield
    finally:
        if handle is not None:
            if not several:
                lock.unlink(missing_ok=True)
            elif _is_alone(handle):
                _clear(folder.rglob(f".*{CLAIM}"))  # of those that were killed on the way
                lock.unlink(missing_ok=True)
            os.close(handle)
        for parent in new_folders:
            with suppress(OSError):
                parent.rmdir()  # which only works where it is empty


@contextmanager
def claimed(path: Path, *, wait: bool = False) -> Iterator[bool]:
    """Whether the file `path` is this process's to make until the block ends: no other process has claimed it.

    With `wait` it is, as soon as nobody else has. The claim is a lock on a file beside `path`, which ends with its
    process, however that ends. Where the disk cannot be written, or knows no locks, nothing is claimed and the file is
    everyone's.
    """
    claim = path.with_name(f".{path.name}{CLAIM}")
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = None
    is_mine = True
    try:
        handle = _locked(claim, wait=wait)
    except _Held:
        is_mine = False
    except OSError as error:
        if error.errno not in _UNLOCKABLE:
            raise
        with suppress(OSError):
            claim.unlink(missing_ok=True)
    try:
        yield is_mine
    finally:
        if handle is not None:
            claim.unlink(missing_ok=True)
            os.close(handle)


class _Held(Exception):
    """Another process holds a lock."""


def _held_by_several(lock: Path) -> int | None:
    """An open handle that shares the lock file with others, None where there are no locks."""
    last = time.monotonic() + _PATIENCE
    while True:
        try:
            return _locked(lock, shared=True)
        except _Held:
            # one that leaves has the folder to itself for a moment
            if time.monotonic() > last:
                raise
        time.sleep(0.1)


def _locked(lock: Path, *, shared: bool = False, wait: bool = False) -> int | None:
    """An open handle that holds the lock file, None where there are no locks; `_Held` where another process has it."""
    if fcntl is None:
        return None
    how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    if not wait:
        how |= fcntl.LOCK_NB
    while True:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, how)
            # Between opening and locking, the one that held it may have taken the file away: then it locks nothing.
            if os.path.samestat(os.fstat(handle), lock.stat()):
                owner = {"process": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%H:%M:%S")}
                with suppress(OSError):  # a full disk: what is to be written will say so by its name
                    os.ftruncate(handle, 0)
                    os.write(handle, json.dumps(owner).encode())
                return handle
        except BlockingIOError:
            os.close(handle)
            raise _Held from None
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _is_alone(handle: int) -> bool:
    """Whether nobody else shares a lock, which then is this process's alone."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _owner(lock: Path) -> str:
    try:
        owner = json.loads(lock.read_text(encoding="utf-8"))
        return f"process {owner['process']} on {owner['host']} (since {owner['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _clear(hidden: Iterable[Path]) -> None:
    """Remove what killed processes left: files that those of this machine were writing, and claims."""
    for path in list(hidden):
        named = _OF_PROCESS.fullmatch(path.name)
        if named and named["host"] == _HOST and not _is_running(int(named["process"])):
            _remove(path)
        elif path.name.endswith(CLAIM):
            with claimed(path.with_name(path.name.removeprefix(".").removesuffix(CLAIM))):
                pass  # which takes its own away


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's
        return True
    return True


def _usual_mode(path: Path) -> int:
    """The permissions that a new file gets here, which some libraries narrow to the user alone."""
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    mode = stat.S_IMODE(path.stat().st_mode)
    path.unlink()
    return mode


def _settle(path: Path, mode: int) -> None:
    """Give a file, or all files of a folder, these permissions, and wait until the disk has them."""
    files = [path]
    if not path.is_file():
        files = [file for file in path.rglob("*") if file.is_file()]
    for file in files:
        if stat.S_IMODE(file.stat().st_mode) != mode:
            file.chmod(mode)
        _sync(file)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError):  # some disks cannot be waited for
            os.fsync(handle)
    finally:
        os.close(handle)


def full(path: object) -> UserError:
    """What is told when `path` could not be written to its end."""
    return UserError(f"{path}: the disk is full; free some space and run the same command again")


def is_full(error: BaseException) -> bool:
    """Whether an error means that the disk, or the user's share of it, is full; some libraries only say so in words."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return any(words in str(error) for words in _FULL)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def users_cache() -> Path:
    """Where is kept what can be had again: $CONTRAPOSE_CACHE, else a folder in the user's cache."""
    of_all = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get(CACHE) or f"{of_all}/contrapose").expanduser()


def is_writable(text: str) -> bool:
    """Whether every file can hold a text: it has no NUL and no half of a surrogate pair, such as JSON's "\\ud83d"."""
    try:
        return b"\0" not in text.encode("utf-8")
    except UnicodeEncodeError:
        return False
