"""Which format a path holds, by its ending and its columns."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from contrapose.errors import UserError
from contrapose.exchange.listings.json_stream import items
from contrapose.exchange.listings.tables import header

METADATA = "metadata.jsonl"
_FIELDS = {  # of files that end alike, the field that tells one format from another
    ".jsonl": {"image_0": "metadata", "pos_file": "ddspo"},
    ".csv": {"real_image_path": "real-fake", "label": "kto"},
    ".json": {"path1": "hpdv3"},
}
_KINDS = {".parquet": "pick-a-pic", ".tar": "webdataset"}


def place(source: Path) -> Path:
    """The file that lists a folder's pairs, when there is one; else the source itself."""
    return source / METADATA if (source / METADATA).is_file() else source


def detect(source: Path) -> str:
    """The name of the source's format; raises `UserError` when it is missing or tells none."""
    path = place(source)
    if not path.exists():
        raise UserError(f"{source}: no such file or folder; check the path")
    if path.is_dir():
        ending = next((ending for ending in _KINDS if any(path.glob(f"*{ending}"))), None)
        ending = ending or (".parquet" if any(path.glob("data/*.parquet")) else None)
        if ending is None:
            raise UserError(
                f"{source}: holds no {METADATA}, .parquet or .tar files; name the file that lists the pairs"
            )
        return _KINDS[ending]
    ending = path.suffix.lower()
    if ending in _KINDS:
        return _KINDS[ending]
    if ending not in _FIELDS:
        known = ", ".join([*_FIELDS, *_KINDS])
        raise UserError(f"{source}: its format is not known by its ending ({known} are); name it with --format")
    there = set(_first_fields(path, ending))
    found = next((name for field, name in _FIELDS[ending].items() if field in there), None)
    if found is None:
        needed = " or ".join(_FIELDS[ending])
        raise UserError(
            f"{path}: has no {needed} (found: {', '.join(sorted(there)) or 'nothing'}), so it lists no pairs"
        )
    return found


def _first_fields(path: Path, ending: str) -> Iterable[str]:
    if ending == ".csv":
        return header(path)
    if ending == ".json":
        return next((entry for _, entry in items(path)), {})
    with path.open("rb") as file:
        line = next((line for line in file if line.strip(b"\xef\xbb\xbf \t\r\n")), b"{}")
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise UserError(f"{path}: its first line is not one JSON object; mend or remove the line")
    return row
