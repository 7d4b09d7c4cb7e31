"""T2I-CompBench's rules over boxes (Huang et al. 2023, 2025): places, depth, counts, and the mean of three.

The rules are the released ones, quirks included, for images whose longer side is 480 pixels; which detector finds the
boxes is the caller's choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from contrapose.evaluate.boxes import Box

FRAME = 480  # pixels of the longer side of what boxes are told in
NEAR = ("on side of", "next to", "near")
# In the order in which a prompt is searched for them.
PLACES = (*NEAR, "on the left of", "on the right of", "on the bottom of", "on the top of", "on top of")
DEPTHS = ("in front of", "behind", "hidden")
_REACH = 150  # pixels within which things are near each other
_LITTLE_OVERLAP = 0.1  # IoU
_MUCH_OVERLAP = 0.5  # IoU
_LEAST = 0.5  # of a score of places; what is below is none
_SAME = 0.9  # IoU, or share of either box, over which two boxes are of one object

Boxes = Mapping[str, Sequence[Box]]
"""By name, the objects, the best first."""


def word_of(text: str, words: Sequence[str]) -> str | None:
    """The first of these words that a prompt has anywhere, even within another word."""
    for word in words:
        if word in text:
            return word
    return None


def overlap(a: Box, b: Box) -> float:
    """Intersection over union; 0 for two boxes without an area."""
    shared = _shared(a, b)
    union = _area(a) + _area(b) - shared
    return shared / union if union > 0 else 0.0


def place_score(word: str | None, a: Box, b: Box) -> float:
    """How well a lies to b as the word says, 0 to 1; 0 for a word of no rule, such as "on top of".

    near and the like   1 where |dx| < 150 or |dy| < 150, else 150 / max(|dx|, |dy|), of the centres
    left, right, ...    min(1, 0.1 / IoU) where a lies there, and that axis has the larger distance, else 0
    """
    dx = (b.left + b.right - a.left - a.right) / 2
    dy = (b.top + b.bottom - a.top - a.bottom) / 2
    if word in NEAR:
        is_near = min(abs(dx), abs(dy)) < _REACH
        return 1.0 if is_near else _REACH / max(abs(dx), abs(dy))
    # dx and dy lead from a to b: where dx is above 0, a lies left of b
    holds = {
        "on the right of": -dx > abs(dy),
        "on the left of": dx > abs(dy),
        "on the bottom of": -dy > abs(dx),
        "on the top of": dy > abs(dx),
    }
    if not holds.get(word or "", False):
        return 0.0
    iou = overlap(a, b)
    return 1.0 if iou < _LITTLE_OVERLAP else _LITTLE_OVERLAP / iou


def depth_score(word: str | None, iou: float, nearer: float) -> float:
    """How well a lies before or behind b, 0 to 1: the rule of 3d_spatial.

    `nearer` is how much nearer a is, above 0 where it is before b. In the right order 1 where IoU > 0.5, and IoU / 0.5
    below; 0 in the wrong order, where boxes do not touch, and at an IoU of 0.5.
    """
    if word not in DEPTHS:
        return 0.0
    is_right = nearer > 0 if word == "in front of" else nearer < 0
    if not is_right or iou == _MUCH_OVERLAP:
        return 0.0
    return min(1.0, iou / _MUCH_OVERLAP)


def pair_score(a: Box | None, b: Box | None, position: float) -> float:
    """conf(a) / 4 + conf(b) / 4 + position / 2, where a thing that is not seen, or whose other is not, adds less."""
    score = 0.0
    for box in (a, b):
        if box is not None:
            score += 0.25 * box.score
    return score if a is None or b is None else score + position / 2


def spatial_score(word: str | None, a: Box | None, b: Box | None) -> float:
    """The score of `spatial`: below 0.5 it is 0."""
    position = 0.0 if a is None or b is None else place_score(word, a, b)
    score = pair_score(a, b, position)
    return score if score >= _LEAST else 0.0


def numeracy_score(counts: Sequence[tuple[str, int]], boxes: Boxes) -> float:
    """The score of `numeracy` for names and how many of each are asked for.

    mean over names of (some are seen) / 2 + (as many are seen) / 2, of boxes that are not doubles.
    """
    score = 0.0
    for name, count in counts:
        number = len(without_doubles(boxes.get(name, ())))
        if number:
            score += 0.5
        if number == count:
            score += 0.5
    return score / len(counts)


def without_doubles(boxes: Sequence[Box]) -> list[Box]:
    """The boxes of one name without those that are of an object before them."""
    kept: list[Box] = []
    for box in boxes:
        if not any(_is_same(box, other) for other in kept):
            kept.append(box)
    return kept


def complex_score(kind: str, attributes: float, places: float, action: float) -> float:
    """The mean of the scores that a complex prompt's kind has: of its attributes, and `spatial`, `action` or both."""
    if kind == "spatial":
        return (attributes + places) / 2
    if kind == "action":
        return (attributes + action) / 2
    return (attributes + places + action) / 3


def _is_same(a: Box, b: Box) -> bool:
    """Whether the share of either box that the other covers is over 0.9, as it is wherever the IoU is.

    Edges are pixels here, both ends included.
    """
    wide_a = a._replace(right=a.right + 1, bottom=a.bottom + 1)
    wide_b = b._replace(right=b.right + 1, bottom=b.bottom + 1)
    smaller = min(_area(wide_a), _area(wide_b))
    return _shared(wide_a, wide_b) > _SAME * smaller


def _shared(a: Box, b: Box) -> float:
    """The area that two boxes share."""
    width = min(a.right, b.right) - max(a.left, b.left)
    height = min(a.bottom, b.bottom) - max(a.top, b.top)
    return max(0.0, width) * max(0.0, height)


def _area(box: Box) -> float:
    return (box.right - box.left) * (box.bottom - box.top)
