"""Files that are whole or absent, whatever kills the program."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from contrapose.errors import UserError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path to write (a file or a folder) and rename it to `path` when the block ends well.

    Raises `UserError` when the disk is full; what was at `path` before stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.partial")
    _remove(aside)
    try:
        yield aside
        if aside.is_dir() and path.is_dir():
            _remove(path)
        aside.replace(path)
    except BaseException as error:
        _remove(aside)
        if is_full(error):
            raise UserError(f"{path}: the disk is full; free some space and run the same command again") from error
        raise


def is_full(error: BaseException) -> bool:
    """Whether an error means that the disk, or the user's share of it, is full; some libraries only say so in words."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return "No space left on device" in str(error)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
