"""Folders of images with their captions beside them: in STEM.txt, STEM.caption, NAME.txt, NAME.caption or STEM.json."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

from contrapose.containers.images import UNREAD, unread
from contrapose.containers.left_out import Skip
from contrapose.containers.places import Entry, Place, inside
from contrapose.containers.row import ContainerRow, read_text
from contrapose.containers.stored import InFile

IMAGE = "image"
CAPTION = "caption"
_TEXTS = (".txt", ".caption")
_SIDECARS = (*_TEXTS, ".json")


def image_row(root: Place, name: str, beside: Mapping[str, str]) -> ContainerRow:
    """The row of an image, named relative to `root`, with the texts and fields of its sidecars.

    Its fields are `image`, `caption` where a sidecar is a text, and those of a sidecar that is JSON. Raises `Skip` for
    a format that is not read, and for a link that leads out of `root`.
    """
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:  # which neither run files nor tables can hold
        raise Skip("its name is not UTF-8; rename it") from None
    path = PurePath(name)
    if path.suffix.lower() in UNREAD:
        raise Skip(unread(path.name), "unreadable")
    image = InFile(inside(root, name))
    said = said_beside(root, path, beside)
    hint = "" if said.unread is None else f"; {said.unread}"
    return ContainerRow(root, name, {**said.fields, IMAGE: image}, joint="", loose=True, hint=hint)


def sidecars(held: Sequence[Entry]) -> dict[str, str]:
    """The names of a folder's captions and JSON files, by the key under which an image looks for them."""
    return {_key(entry.name): entry.name for entry in held if entry.place.suffix.lower() in _SIDECARS}


class Beside(NamedTuple):
    """What an image's sidecars say, and why the first one that cannot be read says nothing."""

    fields: dict[str, Any]
    unread: Skip | None


def said_beside(root: Place, name: PurePath, beside: Mapping[str, str]) -> Beside:
    """The fields that an image's sidecars give it: the first text with words in it, and the fields of a JSON file.

    A sidecar that is missing, unreadable or empty gives none.
    """
    texts = [f"{base}{ending}" for ending in _TEXTS for base in (name.stem, name.name)]  # best first
    fields: dict[str, Any] = {}
    unread: Skip | None = None
    for sidecar in (*texts, f"{name.stem}.json"):
        looked_up = _key(sidecar)
        if looked_up not in beside or CAPTION in fields:
            continue
        try:
            text = read_text(InFile(inside(root, (name.parent / beside[looked_up]).as_posix())))
        except Skip as skip:
            unread = unread or skip
            continue
        if looked_up.endswith(".json"):
            fields = parsed_fields(text)
        elif text:
            fields[CAPTION] = text
    return Beside(fields, unread)


def _key(name: str) -> str:
    """How a sidecar is looked up: both ways to write an accent are one name, and its ending may be in capitals."""
    path = PurePath(name)
    return unicodedata.normalize("NFC", f"{path.stem}{path.suffix.lower()}")


def parsed_fields(text: str) -> dict[str, Any]:
    """The fields of a JSON object; an empty dict if the text is another kind of JSON, or broken."""
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}
