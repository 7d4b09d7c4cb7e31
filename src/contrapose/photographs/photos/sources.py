"""Which photographs there are: in a folder and those below it, or in the tables and archives that people share.

A photograph that cannot be used is told with its reason; a file that is no listing is the user's to mend. Never is more
in memory than the names in one folder, so a hundred thousand photographs list as well as ten.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from contrapose.containers.images import IMAGES, UNREAD, unread
from contrapose.containers.left_out import LeftOut, Skip
from contrapose.containers.stored import InFile, InParquet
from contrapose.errors import UserError
from contrapose.exchange.listings.listed import inside, is_hidden, text
from contrapose.exchange.listings.pick_a_pic import files
from contrapose.photographs.photos.parquet import parquet_photos
from contrapose.photographs.photos.photo import Photo, one_line
from contrapose.photographs.photos.tables import csv_photos, hpdv3_photos, jsonl_photos
from contrapose.photographs.photos.tars import tar_photos

Found = Iterator[Photo | LeftOut]
_READERS: dict[str, Callable[[Path, str], Found]] = {
    ".csv": csv_photos,
    ".jsonl": jsonl_photos,
    ".json": hpdv3_photos,
    ".parquet": parquet_photos,
    ".tar": tar_photos,
}
_IN_FOLDERS = (".parquet", ".tar")  # the other kinds may be anything there
_SPLITS = frozenset({"train", "training", "test", "testing", "validation", "valid", "val", "dev"})
_METADATA = ("metadata.jsonl", "metadata.csv")
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_READ = (
    "photographs are read from a folder of images (captions in .txt beside them, metadata.jsonl or metadata.csv), "
    "tables (.csv, .jsonl), .parquet, uncompressed .tar and HPDv3's .json"
)


def list_photos(source: Path, split: str | None = None, skip: Path | None = None) -> Iterator[Photo | LeftOut]:
    """The photographs of a file or folder in the order of their names, which is the same on every machine.

    A folder is one of images, .parquet or .tar files, and those below it are walked through, but for `skip`; where one
    holds a `metadata.jsonl` or `metadata.csv`, that says which images. `split` is one of a Parquet data set's. Raises
    `UserError` naming file and row for what cannot be read, and when there are no photographs.
    """
    photos = _of_split(source, split) if split is not None else _of_source(source, skip)
    first = next(photos, None)
    if first is None:
        raise UserError(f"{source}: holds no photographs; {_READ}")
    yield first
    yield from photos


def _of_split(source: Path, split: str) -> Found:
    for path in files(source, split):
        yield from parquet_photos(path, path.name)


def _of_source(source: Path, skip: Path | None) -> Found:
    if source.is_dir():
        yield from _of_folder(source, skip.resolve() if skip else None)
        return
    _check_uncompressed(source)
    reader = _READERS.get(source.suffix.lower())
    if not source.exists():
        raise UserError(f"{source}: no such file or folder; check the path")
    if reader is None:
        raise UserError(f"{source}: is no source of photographs; {_READ}")
    yield from reader(source, source.name)


def _of_folder(root: Path, skip: Path | None) -> Found:
    """Everything in and below a folder; a stack, since folders lie in each other deeper than Python can call."""
    levels = [_level(root, root)]
    splits: set[str] = set()
    while levels:
        part = next(levels[-1], None)
        if part is None:
            levels.pop()
        elif not isinstance(part, Path):
            if isinstance(part, Photo) and isinstance(part.image, InParquet):
                splits |= {part.image.path.parent.name.lower()} & _SPLITS
                if len(splits) > 1:
                    raise UserError(f"{root}: has the splits {', '.join(sorted(splits))} in folders; name one of them")
            yield part
        elif skip is None or part.resolve() != skip:
            levels.append(_level(root, part))


def _level(root: Path, folder: Path) -> Iterator[Photo | LeftOut | Path]:
    """What one folder holds, the folders below it by their paths."""
    try:
        entries = _entries(folder)
    except OSError as error:
        if folder == root:
            raise UserError(f"{folder}: cannot be read ({error.strerror}); name a readable folder") from None
        yield LeftOut(
            folder.relative_to(root).as_posix(), "unusable", f"is a folder that cannot be read ({error.strerror})"
        )
        return
    metadata = [entry.name for entry in entries if entry.name in _METADATA]
    if len(metadata) > 1:
        raise UserError(f"{folder}: holds {' and '.join(metadata)}; keep one of the two")
    if metadata:
        yield from _of_listing(root, folder / metadata[0])
        return
    if any(entry.name.endswith(".parquet") for entry in entries):
        files(folder)  # raises when they are of several splits
    for entry in entries:
        yield from _of_entry(root, entry)


def _of_entry(root: Path, entry: os.DirEntry[str]) -> Iterator[Photo | LeftOut | Path]:
    path = Path(entry.path)
    name, ending = path.relative_to(root).as_posix(), path.suffix.lower()
    if entry.is_dir(follow_symlinks=False):
        yield path
    elif entry.is_symlink() and path.is_dir():
        yield LeftOut(name, "unusable", "is a link to a folder, which is not followed")
    elif ending in IMAGES:
        yield _of_image(root, name)
    elif ending in UNREAD:
        yield LeftOut(name, "unusable", unread(path.name))
    elif ending in _IN_FOLDERS:
        yield from _of_listing(root, path)
    else:
        _check_uncompressed(path)


def _of_listing(root: Path, path: Path) -> Found:
    name = path.relative_to(root).as_posix()
    try:
        inside(root, name)
    except Skip as skip:
        yield skip.of(name)
        return
    yield from _READERS[path.suffix.lower()](path, name)


def _of_image(root: Path, name: str) -> Photo | LeftOut:
    try:
        name.encode("utf-8")
        return Photo(name, InFile(inside(root, name)), _caption(root, name))
    except UnicodeEncodeError:  # which neither run files nor tables can hold
        return LeftOut(
            os.fsencode(name).decode("utf-8", "backslashreplace"), "unusable", "its name is not UTF-8; rename it"
        )
    except Skip as skip:
        return skip.of(name)


def _caption(root: Path, name: str) -> str | None:
    """What the text file of the image's stem says."""
    try:
        return one_line(text(InFile(inside(root, Path(name).with_suffix(".txt").as_posix()))))
    except Skip:
        return None


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What the folder holds, by name; hidden files and those of macOS's archives are nobody's photographs."""
    with os.scandir(folder) as found:
        shown = [entry for entry in found if not is_hidden(entry.name)]
    return sorted(shown, key=lambda entry: entry.name)


def _check_uncompressed(path: Path) -> None:
    if path.name.lower().endswith(_COMPRESSED):
        raise UserError(f"{path}: is a compressed tar, in which no image can be found by its place; uncompress it")
