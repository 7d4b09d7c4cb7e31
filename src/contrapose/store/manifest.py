"""`pairs.yaml`: how a folder of pairs was made, read back with suspicion."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from contrapose.documents import load_yaml
from contrapose.errors import UserError

MANIFEST = "pairs.yaml"
FORMAT = 3
READ = (2, FORMAT)  # the settings stand in other places in 2, which none of the pairs do
MADE = ("draw", "import", "real")  # the ways to make pairs, each with its settings
_MEND = "delete the folder and run the command that made it again"
_WORDS: dict[type, str] = {int: "a whole number", str: "a text", list: "a list", dict: "a mapping"}
_KINDS: dict[str, type] = {
    "format": int,
    "fingerprint": str,
    "num_pairs": int,
    "pairs_digest": str,
    "stages": list,
    **dict.fromkeys(MADE, dict),
}
_SETTINGS: dict[str, type] = {"model": str, "degrade": dict}


def read_manifest(folder: Path) -> dict[str, Any]:
    """What `pairs.yaml` says of a folder of pairs.

    Raises `UserError` naming the file, and the entry, when it is missing, broken or says what no command writes.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise UserError(
            f"{folder}: no {MANIFEST}, so this is no folder of pairs; "
            "make one with 'contrapose pairs draw', 'pairs import' or 'pairs real'"
        )
    manifest = load_yaml(path, _MEND)
    if not isinstance(manifest, dict):
        raise UserError(f"{path}: broken, a mapping was expected; {_MEND}")
    _check_kinds(path, manifest, _KINDS)
    if manifest.get("format", FORMAT) not in READ:
        raise UserError(f"{path}: is of format {manifest['format']}, and this version reads {FORMAT}; {_MEND}")
    if manifest.get("num_pairs", 0) < 1:
        raise UserError(
            f"{path}: num_pairs is {manifest.get('num_pairs')}, where the number of pairs is wanted; {_MEND}"
        )
    for made in MADE:
        _check_kinds(path, manifest.get(made, {}), _SETTINGS, f"{made}.")
    return manifest


def _check_kinds(path: Path, values: Mapping[str, Any], kinds: Mapping[str, type], prefix: str = "") -> None:
    for key, kind in kinds.items():
        if key in values and type(values[key]) is not kind:
            value = repr(values[key])[:100]
            raise UserError(f"{path}: {prefix}{key} is {value}, where {_WORDS[kind]} is wanted; {_MEND}")
