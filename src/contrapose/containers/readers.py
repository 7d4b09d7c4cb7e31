"""The reader of each container, by its ending, and the files that make up a source."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from contrapose.containers.json_files import line_rows, list_rows
from contrapose.containers.parquet import parquet_rows
from contrapose.containers.places import Place, place_of
from contrapose.containers.row import ContainerRow
from contrapose.containers.tables import table_rows
from contrapose.containers.tars import check_uncompressed, tar_rows
from contrapose.errors import UserError

READERS: dict[str, Callable[[Place, Sequence[str]], Iterator[ContainerRow]]] = {
    ".csv": table_rows,
    ".tsv": table_rows,
    ".jsonl": line_rows,
    ".json": list_rows,
    ".parquet": parquet_rows,
    ".tar": tar_rows,
}
METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
_SPLITS = frozenset({"train", "training", "test", "testing", "validation", "valid", "val", "dev"})
_SPLIT = re.compile(r"(.+)-\d{5}-of-\d{5}.*\.parquet")  # as Hugging Face names a data set's files


def rows_of(source: Place, needs: Sequence[str] = (), split: str | None = None) -> Iterator[ContainerRow]:
    """The rows of a file, or of the files of a folder, one in memory at a time.

    Raises `UserError` naming the file and the row for what cannot be read, and for a column of `needs` that is missing.
    """
    for path in files_of(place_of(source), split):
        yield from file_rows(path, needs)


def file_rows(path: Place, needs: Sequence[str] = ()) -> Iterator[ContainerRow]:
    """The rows of one file."""
    check_uncompressed(path)
    reader = READERS.get(path.suffix.lower())
    with readable(path):
        if reader is None:
            endings = ", ".join(READERS)
            raise UserError(f"{path}: its format is not known by its ending ({endings} are); write it as one of those")
        yield from reader(path, needs)


def files_of(source: Place, split: str | None = None) -> list[Place]:
    """The files that a path stands for: itself, or a folder's metadata, Parquet files or tars.

    A folder may hold several splits, by the names of Hugging Face's files or by folders; raises `UserError` when it
    does and none is named, or one that is not there.
    """
    with readable(source):
        if not source.exists():
            raise nothing_at(source)
        if not source.is_dir():
            return _of_split(source, [source], split)
        metadata = metadata_of(source)
        if metadata is not None:
            return [metadata]
        files = parquet_files(source) or sorted(source.glob("*.tar"), key=str)
    if not files:
        raise UserError(f"{source}: holds no {METADATA[0]}, .parquet or .tar files; name the file that lists its rows")
    return _of_split(source, files, split)


def nothing_at(source: Place) -> UserError:
    """The error for a path where nothing is; what may be a data set of the hub is told how that is named."""
    may_be_of_hub = re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)) and not source.parent.exists()
    of_hub = f"; a data set of the hub is named hf://datasets/{source}" if may_be_of_hub else ""
    return UserError(f"{source}: no such file or folder; check the path{of_hub}")


def metadata_of(folder: Place) -> Place | None:
    """The file that says which images a folder holds, as Hugging Face's image folders have it; `UserError` for two."""
    listings = [folder / name for name in METADATA if (folder / name).is_file()]
    if len(listings) > 1:
        names = " and ".join(sorted(listing.name for listing in listings))
        raise UserError(f"{folder}: holds {names}; keep one of the two")
    return listings[0] if listings else None


def parquet_files(folder: Place) -> list[Place]:
    """The Parquet files of a data set: in its folder, in `data/`, or wherever they lie below."""
    for pattern in ("*.parquet", "data/*.parquet", "**/*.parquet"):
        files: list[Place] = sorted(folder.glob(pattern), key=str)
        if files:
            return files
    return []


def _of_split(source: Place, files: list[Place], split: str | None) -> list[Place]:
    splits = {path: split_of(path) for path in files}
    names = sorted({name for name in splits.values() if name})
    if split is not None and split not in names:
        raise UserError(f"{source}: has no split {split} (found: {', '.join(names) or 'no splits'}); leave --split out")
    if split is not None:
        return [path for path in files if splits[path] == split]
    if len(set(splits.values())) > 1:
        raise UserError(f"{source}: has the splits {', '.join(names)}; choose one with --split")
    return files


def split_of(path: Place) -> str | None:
    """The split that a file belongs to, by its name or its folder's; None where neither tells."""
    match = _SPLIT.fullmatch(path.name)
    if match:
        return match[1]
    folder = path.parent.name.lower()
    return folder if folder in _SPLITS else None


@contextmanager
def readable(path: Place) -> Iterator[None]:
    """Turn an error of the disk or the network into a `UserError` of one line that names the path."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; check the path") from None
    except OSError as error:
        reason = " ".join((error.strerror or str(error)).split())
        raise UserError(f"{path}: cannot be read ({reason}); name what can be read") from None
