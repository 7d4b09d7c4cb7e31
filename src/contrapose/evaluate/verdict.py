"""GenEval's verdict (Ghosh et al. 2023, djghosh13/geneval) over any detector: is everything the prompt asks for there?

The rules are the released ones, quirks included; which detector finds the objects is the caller's choice.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from contrapose.errors import UserError
from contrapose.judges.judge import Marks

RELATIONS = ("left of", "right of", "above", "below")


@dataclass(frozen=True)
class Detection:
    """One object that a detector found: box (x0, y0, x1, y1) in pixels, mask [h, w], score in 0..1."""

    box: tuple[float, float, float, float]
    mask: NDArray[np.bool_]
    score: float


Detections = Mapping[str, Sequence[Detection]]
"""Objects by class."""


class Detector(Protocol):
    """Finds objects by class, and names the colour of one."""

    def detect(self, image: NDArray[np.uint8]) -> dict[str, list[Detection]]:
        """Objects by class, in any order; image is RGB, [h, w, 3]."""
        ...

    def color(self, image: NDArray[np.uint8], detection: Detection, class_name: str) -> str: ...


@dataclass(frozen=True)
class Thresholds:
    """When a detection counts as an object; the defaults are GenEval's, for its Mask2Former."""

    score: float = 0.3
    counting_score: float = 0.9
    max_per_class: int = 16
    position_slack: float = 0.1  # share of the two objects' sizes that an offset must exceed


@dataclass(frozen=True)
class Verdict:
    """Whether the image shows what the prompt asks for, and if not, why; reasons are joined by newlines."""

    correct: bool
    reason: str = ""
    seen: str = field(default="", compare=False)
    """As JSON, `details`: by class the boxes and scores of what counted as an object, the best first; and `colors`: by
    class the colours of the first ones, where the prompt asks for one."""


def accepted(detections: Detections, tag: str, thresholds: Thresholds = Thresholds()) -> dict[str, list[Detection]]:
    """By class, the detections above the tag's threshold: best first, at most `max_per_class`."""
    # stricter where one box too many is a wrong answer
    least = thresholds.counting_score if tag == "counting" else thresholds.score
    kept: dict[str, list[Detection]] = {}
    for name, objects in detections.items():
        above = [detection for detection in objects if detection.score > least]
        above.sort(key=lambda detection: -detection.score)
        kept[name] = above[: thresholds.max_per_class]
    return kept


def relations(a: Detection, b: Detection, slack: float = 0.1) -> set[str]:
    """How a lies to b; two relations may hold, or none.

    With offset o = centre_a - centre_b:  d = sign(o) max(|o| - slack (size_a + size_b), 0) / ||o||, and "left of" is
    d_x < -1/2, "right of" d_x > 1/2, "above" d_y < -1/2, "below" d_y > 1/2.
    """
    boxes = np.array([a.box, b.box], dtype=np.float64).reshape(2, 2, 2)
    centres = boxes.mean(axis=1)
    sizes = np.abs(boxes[:, 1] - boxes[:, 0])
    offset = centres[0] - centres[1]
    revised = np.sign(offset) * np.maximum(np.abs(offset) - slack * sizes.sum(axis=0), 0.0)
    # one lies upon the other; the offset itself may be nothing too, and is divided by below
    if np.all(np.abs(revised) < 1e-3):
        return set()
    # by the offset before the slack was taken off, as GenEval does, so that near objects hold no relation
    dx, dy = revised / np.linalg.norm(offset)
    holds = (dx < -0.5, dx > 0.5, dy < -0.5, dy > 0.5)
    return {name for name, held in zip(RELATIONS, holds, strict=True) if held}


def verdict(
    image: NDArray[np.uint8],
    metadata: Mapping[str, Any],
    detections: Detections,
    color: Callable[[NDArray[np.uint8], Detection, str], str],
    thresholds: Thresholds = Thresholds(),
) -> Verdict:
    """Judge an image by what a detector found in it; `metadata` is GenEval's line.

    Raises `UserError` when the line asks for nothing or is not a GenEval line.
    """
    check_metadata(metadata)
    objects = accepted(detections, metadata.get("tag", ""), thresholds)
    colors: dict[str, list[str]] = {}
    groups: list[list[Detection] | None] = []
    reasons: list[str] = []
    for clause in metadata.get("include", []):
        name = clause["class"]
        count = clause["count"]
        group = objects.get(name, [])[:count]
        reason = ""
        if len(group) < count:
            reason = f"expected {name} >= {count}, found {len(group)}"
        if not reason and "color" in clause:
            colors[name] = [color(image, detection, name) for detection in group]
            reason = _color_reason(clause, colors[name])
        if not reason and "position" in clause:
            reason = _position_reason(clause, group, groups, thresholds.position_slack)
        # later clauses name this one by its place, and none may lean on objects that failed their own
        groups.append(None if reason else group)
        if reason:
            reasons.append(reason)
    for clause in metadata.get("exclude", []):
        number = len(objects.get(clause["class"], []))
        if number >= clause["count"]:
            reasons.append(f"expected {clause['class']} < {clause['count']}, found {number}")
    return Verdict(not reasons, "\n".join(reasons), _as_text(objects, colors))


def _as_text(objects: Detections, colors: Mapping[str, Sequence[str]]) -> str:
    """What was seen, without the masks, each of which is as large as the image."""
    details: dict[str, list[list[float]]] = {}
    for name, group in objects.items():
        if group:
            details[name] = [[*detection.box, detection.score] for detection in group]
    return json.dumps({"details": details, "colors": colors})


def as_marks(verdicts: Sequence[Verdict]) -> Marks:
    """The metric `correct`, 0 or 1, of a batch."""
    correct = np.array([float(judged.correct) for judged in verdicts])
    reasons = [judged.reason or None for judged in verdicts]
    return Marks(correct, reasons, [judged.seen for judged in verdicts])


def judge(
    image: NDArray[np.uint8], metadata: Mapping[str, Any], detector: Detector, thresholds: Thresholds = Thresholds()
) -> Verdict:
    """Detect, then judge."""
    return verdict(image, metadata, detector.detect(image), detector.color, thresholds)


def _color_reason(clause: Mapping[str, Any], colors: Sequence[str]) -> str:
    """Only the `count` most confident objects were classified, so all of them must show the colour."""
    count = clause["count"]
    if colors.count(clause["color"]) >= count:
        return ""
    shown = ", ".join(f"{colors.count(color)} {color}" for color in dict.fromkeys(colors))
    return f"expected {clause['color']} {clause['class']} >= {count}, found {shown}"


def _position_reason(
    clause: Mapping[str, Any], group: Sequence[Detection], groups: Sequence[list[Detection] | None], slack: float
) -> str:
    """Every object of the group must hold the relation to every object of the target group."""
    wanted, target = clause["position"]
    targets = groups[target]
    if targets is None:
        return f"no target for {clause['class']} to be {wanted}"
    for detection in group:
        for target_detection in targets:
            held = relations(detection, target_detection, slack)
            if wanted not in held:
                shown = " and ".join(sorted(held)) or "no relation"
                return f"expected {clause['class']} {wanted} target, found {shown}"
    return ""


def check_metadata(metadata: Mapping[str, Any]) -> None:
    """Raise `UserError` for a line that is none of GenEval's, or asks for nothing: every image would be correct."""
    where = f"metadata of prompt {metadata.get('prompt')!r}"
    include = metadata.get("include", [])
    exclude = metadata.get("exclude", [])
    if not isinstance(include, list) or not isinstance(exclude, list) or not include + exclude:
        raise UserError(f"{where}: `include` asks for nothing; give GenEval's fields")
    for index, clause in enumerate(include + exclude):
        if not isinstance(clause, dict) or not isinstance(clause.get("class"), str):
            raise UserError(f"{where}: clause {index} has no `class`; fix it")
        if type(clause.get("count")) is not int or clause["count"] < 1:
            raise UserError(f"{where}: clause {index} needs a `count` of 1 or more; fix it")
        if "position" in clause and not _is_position(clause["position"], index):
            raise UserError(
                f"{where}: `position` of clause {index} is not [relation, index of an earlier clause]; fix it"
            )


def _is_position(position: Any, index: int) -> bool:
    """Whether this is a relation to the object of a clause before number `index`."""
    if not isinstance(position, (list, tuple)) or len(position) != 2:
        return False
    relation, target = position
    return relation in RELATIONS and type(target) is int and 0 <= target < index
