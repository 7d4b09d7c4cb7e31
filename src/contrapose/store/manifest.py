"""`pairs.yaml`: how a folder of groups was made; every entry is checked when it is read, since people edit it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from contrapose.containers.places import Place
from contrapose.documents import load_yaml
from contrapose.errors import UserError
from contrapose.files import users_cache

MANIFEST = "pairs.yaml"
INDEX = "records.arrow"
DIGESTS = "digests.json"
NOTES = (INDEX, DIGESTS)  # what whoever writes or reads a large folder notes of its shards, beside them
FORMAT = 3
MASKED_FORMAT = 4  # the same with masks beside the latents, where groups say where their samples differ
OLD_FORMAT = 2  # winners and losers in a tensor each: read, and not added to
MADE = ("draw", "import", "real")  # the ways to make pairs, each with its settings
JUDGED = ("score", "label")  # the steps that make groups of other groups, each with its settings
_AGAIN = "delete the folder and run the command that made it again"
_WORDS: dict[type, str] = {int: "a whole number", str: "a text", list: "a list", dict: "a mapping"}
_KINDS: dict[str, type] = {
    "format": int,
    "fingerprint": str,
    "num_groups": int,
    "groups_digest": str,
    "num_pairs": int,  # the two names of format 2
    "pairs_digest": str,
    "stages": list,
    "earlier": list,  # the steps before the last one
    "scores": dict,
    **dict.fromkeys((*MADE, *JUDGED), dict),
}
_SETTINGS: dict[str, type] = {"model": str, "degrade": dict}


def read_manifest(folder: Place) -> dict[str, Any]:
    """The entries of a folder's `pairs.yaml`, with `num_groups` for both formats.

    Raises `UserError` naming the file, and the entry, when it is missing, broken or says what no command writes.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise UserError(
            f"{folder}: no {MANIFEST}, so this is not a folder of pairs; "
            "make one with 'contrapose pairs draw', 'pairs import' or 'pairs real'"
        )
    manifest = load_yaml(path, _AGAIN)
    if not isinstance(manifest, dict):
        raise UserError(f"{path}: broken, a mapping was expected; {_AGAIN}")
    _check_kinds(path, manifest, _KINDS)
    version = manifest.get("format", FORMAT)
    if version not in (OLD_FORMAT, FORMAT, MASKED_FORMAT):
        readable = f"{OLD_FORMAT} to {MASKED_FORMAT}"
        raise UserError(f"{path}: is of format {version}, and this version reads {readable}; {_AGAIN}")
    count = "num_pairs" if version == OLD_FORMAT else "num_groups"
    if manifest.get(count, 0) < 1:
        raise UserError(f"{path}: {count} is {manifest.get(count)}, where a number of at least 1 is wanted; {_AGAIN}")
    for way in MADE:
        _check_kinds(path, manifest.get(way, {}), _SETTINGS, f"{way}.")
    return {**manifest, "num_groups": manifest[count]}


def places_of_notes(folder: Place, name: str) -> list[Path]:
    """Where notes of a folder's shards may lie, the best place first: in the folder, or in the user's cache."""
    whole_name = str(folder.resolve()) if isinstance(folder, Path) else str(folder)
    number = hashlib.sha256(os.fsencode(whole_name)).hexdigest()[:16]
    in_cache = users_cache() / "stores" / f"{number}{Path(name).suffix}"
    return [folder / name, in_cache] if isinstance(folder, Path) else [in_cache]


def _check_kinds(path: Place, values: Mapping[str, Any], kinds: Mapping[str, type], prefix: str = "") -> None:
    for key, kind in kinds.items():
        if key in values and type(values[key]) is not kind:
            value = repr(values[key])[:100]
            raise UserError(f"{path}: {prefix}{key} is {value}, where {_WORDS[kind]} is wanted; {_AGAIN}")
