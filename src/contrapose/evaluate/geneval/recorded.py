"""Detections that were made elsewhere, as GenEval's `results.jsonl` holds them.

A line has, of one image, the boxes and scores of what counted as an object (`details`): above the threshold of its tag,
16 of a class at most, and no masks. So neither a lower threshold nor a colour on grey can be judged from it. It also
has the verdict's own words (`reason`), and these tell the colours that the verdict went by.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contrapose.documents import json_lines
from contrapose.errors import UserError
from contrapose.evaluate.boxes import Box
from contrapose.evaluate.verdict import check_metadata

_FIX = "give the file that GenEval's evaluate_images.py or 'contrapose evaluate' wrote"
_IMAGE = re.compile(r"(?:.*[/\\])?([0-9]+)[/\\]samples[/\\]([0-9]+)\.png")
_LARGEST = 1e9  # of pixels
_COUNTED = re.compile(r"(\d+) (\w+)")  # such as "2 red"


@dataclass(frozen=True)
class RecordedImage:
    """What a line says of one image."""

    where: str
    """File and line, for errors."""
    objects: Mapping[str, Sequence[Box]]
    """By class, the best first."""
    colors: Mapping[str, Sequence[str]] | None
    """By class the colours of the first objects; None where the line does not tell them."""
    metadata: Mapping[str, Any]
    """The prompt's GenEval line; empty where it is not there."""


Place = tuple[int, int]
"""The number of a prompt's folder, and the image's seed."""


def read_records(path: Path) -> dict[Place, RecordedImage]:
    """What a results.jsonl says of each image, by the end of its name: `00000/samples/0000.png`.

    Raises `UserError` naming the file and the line where one is broken or none of GenEval's, and an image that is there
    twice.
    """
    records: dict[Place, RecordedImage] = {}
    for number, fields in json_lines(path, _FIX):
        where = f"{path}: line {number}"
        place = _place(fields.get("filename"), where)
        if place in records:
            raise UserError(f"{where}: is of the same image as {records[place].where}; keep one of the two")
        records[place] = _record(fields, where)
    if not records:
        raise UserError(f"{path}: holds no detections; {_FIX}")
    return records


def _place(filename: object, where: str) -> Place:
    named = _IMAGE.fullmatch(filename) if isinstance(filename, str) else None
    if named is None:
        raise UserError(f"{where}: `filename` is {filename!r}, which does not end like 00000/samples/0000.png; {_FIX}")
    return int(named[1]), int(named[2])


def _record(fields: Mapping[str, Any], where: str) -> RecordedImage:
    objects: dict[str, list[Box]] = {}
    for name, entries in _object(fields, "details", where).items():
        if not isinstance(entries, list):
            raise UserError(f"{where}: `details` of {name} are not a list of boxes; {_FIX}")
        boxes = [_box(entry, name, where) for entry in entries]
        objects[name] = sorted(boxes, key=lambda box: -box.score)
    metadata = _object(fields, "metadata", where) if "metadata" in fields else {}
    if metadata:
        try:
            check_metadata(metadata)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
    if "colors" in fields:
        return RecordedImage(where, objects, _colors(fields, where), metadata)
    reason = fields.get("reason")
    colors = _told_colors(metadata, objects, reason) if metadata and isinstance(reason, str) else None
    return RecordedImage(where, objects, colors, metadata)


def _object(fields: Mapping[str, Any], name: str, where: str) -> dict[str, Any]:
    """A field that is an object, or the JSON text of one."""
    value = fields.get(name)
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise UserError(f"{where}: `{name}` is not readable as JSON; {_FIX}") from None
    if not isinstance(value, dict):
        raise UserError(f"{where}: has no `{name}` that is an object; {_FIX}")
    return value


def _box(entry: object, name: str, where: str) -> Box:
    numbers = entry if isinstance(entry, list) else []
    # compared, since a whole number of JSON may be too large for a float
    are_numbers = all(type(number) in (int, float) and abs(number) < _LARGEST for number in numbers)
    if len(numbers) != len(Box._fields) or not are_numbers:
        raise UserError(f"{where}: a box of {name} is not [x0, y0, x1, y1, score]; {_FIX}")
    return Box(*map(float, numbers))


def _colors(fields: Mapping[str, Any], where: str) -> dict[str, list[str]]:
    colors = _object(fields, "colors", where)
    for name, shown in colors.items():
        if not isinstance(shown, list) or not all(isinstance(color, str) for color in shown):
            raise UserError(f"{where}: `colors` of {name} are not a list of names; {_FIX}")
    return colors


def _told_colors(
    metadata: Mapping[str, Any], objects: Mapping[str, Sequence[Box]], reason: str
) -> dict[str, list[str]] | None:
    """The colours that a verdict of GenEval's own went by; None where its words do not tell them.

    It judges the `count` best objects of a class: unless it complains of their colour, all have the one that was asked
    for, and a complaint counts them. Which of them has which colour it does not say, and no rule asks.
    """
    colors: dict[str, list[str]] = {}
    for clause in metadata.get("include", []):
        name = clause["class"]
        count = clause["count"]
        wanted = clause.get("color")
        if wanted is None or len(objects.get(name, [])) < count:
            continue
        opening = f"expected {wanted} {name}>={count}, found "
        complaints = [line for line in reason.splitlines() if line.startswith(opening)]
        shown = [wanted] * count
        if complaints:
            _, _, counts = complaints[0].partition("; and ")
            shown = [color for number, color in _COUNTED.findall(counts) for _ in range(int(number))]
        if len(shown) != count:
            return None
        colors[name] = shown
    return colors
