"""Which photographs there are: in a folder and those below it, or in the tables and archives that people share.

A photograph that cannot be used is left out with its reason; a file that is not a listing is the user's to fix. At most
the names of one folder are in memory, so a hundred thousand photographs list as well as ten.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path

from contrapose.containers.folders import image_row, sidecars
from contrapose.containers.images import IMAGES, UNREAD
from contrapose.containers.left_out import LeftOut, Skip, attempt
from contrapose.containers.places import Entry, Place, entries, inside, name_below, place_of, spelled_out
from contrapose.containers.readers import METADATA, READERS, file_rows, files_of, metadata_of, nothing_at, split_of
from contrapose.containers.tars import check_uncompressed
from contrapose.errors import UserError
from contrapose.photographs.photos.photo import Photo, photos_of

Photos = Iterator[Photo | LeftOut]
_IN_FOLDERS = (".parquet", ".tar")  # the other kinds may be anything there
_READ = (
    "photographs are read from a folder of images (captions in .txt or .caption beside them, or "
    f"{', '.join(METADATA)}), tables (.csv, .tsv, .jsonl, .json), .parquet and uncompressed .tar"
)


def list_photos(source: Place, split: str | None = None, skip: Path | None = None) -> Photos:
    """The photographs of a file or folder in the order of their names, which is the same on every machine.

    A folder is one of images, .parquet or .tar files, and those below it are walked through, but for `skip`; where one
    holds a `metadata.jsonl`, `.csv` or `.parquet`, that says which images. `split` is one of a Parquet data set's.
    Raises `UserError` naming file and row for what cannot be read, and when there are no photographs.
    """
    place = place_of(source)
    photos = _of_source(place, skip) if split is None else _of_files(place, files_of(place, split))
    first = next(photos, None)
    if first is None:
        raise UserError(f"{source}: holds no photographs; {_READ}")
    return chain([first], photos)


def _of_files(source: Place, files: Iterable[Place]) -> Photos:
    """The photographs of these files in or below a folder, or of the one file that is the source."""
    for path in files:
        label = path.name
        if path != source:
            label = name_below(path, source)
        yield from _of_file(path, label)


def _of_source(source: Place, skip: Path | None) -> Photos:
    if source.is_dir():
        yield from _of_folder(source, skip.resolve() if skip else None)
        return
    check_uncompressed(source)
    if not source.exists():
        raise nothing_at(source)
    if source.suffix.lower() not in READERS:
        raise UserError(f"{source}: is not a source of photographs; {_READ}")
    yield from _of_file(source, source.name)


def _of_file(path: Place, label: str) -> Photos:
    for row in file_rows(path):
        yield from photos_of(row, row.within(label))


def _of_folder(root: Place, skip: Path | None) -> Photos:
    """Everything in and below a folder; a stack, since folders lie in each other deeper than Python can call."""
    levels = [_level(root, root)]
    splits: set[str] = set()
    while levels:
        part = next(levels[-1], None)
        if part is None:
            levels.pop()
        elif isinstance(part, Entry):
            if part.is_folder:
                if skip is None or not isinstance(part.place, Path) or part.place.resolve() != skip:
                    levels.append(_level(root, part.place))
                continue
            split = split_of(part.place) if part.name.endswith(".parquet") else None
            # train and test of one data set would else be read as one, test images among them
            splits |= {split} if split else set()
            if len(splits) > 1:
                raise UserError(f"{root}: has the splits {', '.join(sorted(splits))}; choose one with --split")
            levels.append(_of_listing(root, part.place))
        else:
            yield part


def _level(root: Place, folder: Place) -> Iterator[Photo | LeftOut | Entry]:
    """What one folder holds; folders below it, and files that list photographs, as entries."""
    try:
        held = entries(folder)
    except OSError as error:
        if folder == root:
            raise UserError(f"{folder}: cannot be read ({error.strerror}); name a readable folder") from None
        name = name_below(folder, root)
        yield LeftOut(name, "unreadable", f"is a folder that cannot be read ({error.strerror})")
        return
    if any(entry.name in METADATA for entry in held):
        metadata_of(folder)  # raises when there are two
        yield next(entry for entry in held if entry.name in METADATA)
        return
    beside = sidecars(held)
    for entry in held:
        yield from _of_entry(root, entry, beside)


def _of_entry(root: Place, entry: Entry, beside: Mapping[str, str]) -> Iterator[Photo | LeftOut | Entry]:
    name = name_below(entry.place, root)
    ending = entry.place.suffix.lower()
    if entry.is_folder:
        yield entry
    elif entry.is_link_to_folder:
        yield LeftOut(name, "unusable", "is a link to a folder, which is not followed")
    elif ending in (*IMAGES, *UNREAD):
        row = attempt(spelled_out(name), image_row, root, name, beside)
        if isinstance(row, LeftOut):
            yield row
        else:
            yield from photos_of(row, name)
    elif ending in _IN_FOLDERS:
        yield entry
    else:
        check_uncompressed(entry.place)


def _of_listing(root: Place, path: Place) -> Photos:
    name = name_below(path, root)
    try:
        inside(root, name)
    except Skip as skip:
        yield skip.of(name)
        return
    yield from _of_file(path, name)
