"""GenEval's rules, each on a case worked by hand, and the position rule against a second implementation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contrapose.errors import UserError
from contrapose.evaluate.verdict import Detection, Thresholds, accepted, judge, relations, verdict

IMAGE = np.zeros((8, 8, 3), dtype=np.uint8)


def seen(score: float, box: tuple[float, float, float, float] = (0, 0, 10, 10)) -> Detection:
    return Detection(box, np.zeros((8, 8), dtype=bool), score)


def no_color(image, detection, class_name) -> str:
    raise AssertionError("colour was asked for")


def line(*include: dict, tag: str = "single_object", exclude: list[dict] | None = None) -> dict:
    return {"tag": tag, "prompt": "p", "include": list(include), **({"exclude": exclude} if exclude else {})}


def one(name: str, count: int = 1, **more) -> dict:
    return {"class": name, "count": count, **more}


def test_a_score_must_exceed_the_threshold():
    metadata = line(one("cat"))
    assert verdict(IMAGE, metadata, {"cat": [seen(0.31)]}, no_color).correct
    assert not verdict(IMAGE, metadata, {"cat": [seen(0.3)]}, no_color).correct
    assert verdict(IMAGE, metadata, {}, no_color).reason == "expected cat >= 1, found 0"


def test_counting_has_its_own_threshold():
    metadata = line(one("cat", 2), tag="counting", exclude=[one("cat", 3)])
    cats = [seen(0.95), seen(0.91), seen(0.9), seen(0.5)]
    assert verdict(IMAGE, metadata, {"cat": cats}, no_color).correct
    loose = verdict(IMAGE, metadata, {"cat": cats}, no_color, Thresholds(counting_score=0.4))
    assert loose.reason == "expected cat < 3, found 4"


def test_more_than_asked_is_fine_unless_excluded():
    cats = {"cat": [seen(0.99)] * 3}
    assert verdict(IMAGE, line(one("cat", 2)), cats, no_color).correct
    assert not verdict(IMAGE, line(one("cat", 2), exclude=[one("cat", 3)]), cats, no_color).correct


def test_at_most_sixteen_are_kept_and_the_best_come_first():
    many = [seen(0.4 + i / 100) for i in range(20)]
    kept = accepted({"cat": many}, "colors")["cat"]
    assert [round(k.score, 2) for k in kept] == [round(0.59 - i / 100, 2) for i in range(16)]
    assert not verdict(IMAGE, line(one("cat", 17)), {"cat": many}, no_color).correct


def test_only_the_most_confident_objects_show_their_colour():
    cats = [seen(0.5, (1, 0, 2, 1)), seen(0.9, (2, 0, 3, 1)), seen(0.8, (3, 0, 4, 1))]
    colors = {1: "red", 2: "blue", 3: "red"}

    def color(image, detection, class_name):
        return colors[int(detection.box[0])]

    assert not verdict(IMAGE, line(one("cat", color="red")), {"cat": cats}, color).correct
    assert verdict(IMAGE, line(one("cat", color="blue")), {"cat": cats}, color).correct
    two = verdict(IMAGE, line(one("cat", 2, color="red")), {"cat": cats}, color)
    assert two.reason == "expected red cat >= 2, found 1 blue, 1 red"


def test_position_of_the_subject_to_the_reference():
    metadata = line(one("dog"), one("cat", position=["left of", 0]), tag="position")
    left, right = seen(0.9, (0, 0, 10, 10)), seen(0.9, (30, 0, 40, 10))
    assert verdict(IMAGE, metadata, {"cat": [left], "dog": [right]}, no_color).correct
    turned = verdict(IMAGE, metadata, {"cat": [right], "dog": [left]}, no_color)
    assert turned.reason == "expected cat left of target, found right of"


def test_position_fails_without_its_target():
    metadata = line(one("dog"), one("cat", position=["left of", 0]), tag="position")
    judged = verdict(IMAGE, metadata, {"cat": [seen(0.9)]}, no_color)
    assert judged.reason.splitlines() == ["expected dog >= 1, found 0", "no target for cat to be left of"]


def test_every_object_must_hold_the_position_to_every_target():
    metadata = line(one("dog", 2), one("cat", position=["left of", 0]), tag="position")
    cat, far, near = seen(0.9, (20, 0, 30, 10)), seen(0.9, (60, 0, 70, 10)), seen(0.8, (0, 0, 10, 10))
    assert not verdict(IMAGE, metadata, {"cat": [cat], "dog": [far, near]}, no_color).correct
    assert verdict(IMAGE, metadata, {"cat": [cat], "dog": [far, far]}, no_color).correct


def test_the_slack_is_a_tenth_of_both_sizes():
    # Offset 2 = 0.1 (10 + 10): nothing is left of it; a little more, and d = 0.001 / 2.001 is still below a half.
    assert relations(seen(1, (2, 0, 12, 10)), seen(1)) == set()
    assert relations(seen(1, (3.9, 0, 13.9, 10)), seen(1)) == set()  # 1.9 / 3.9 < 1/2
    assert relations(seen(1, (4.1, 0, 14.1, 10)), seen(1)) == {"right of"}  # 2.1 / 4.1 > 1/2
    assert relations(seen(1), seen(1)) == set()


def test_both_axes_can_hold():
    assert relations(seen(1, (-100, -100, -90, -90)), seen(1)) == {"left of", "above"}


def reference_relations(a: tuple[float, ...], b: tuple[float, ...]) -> set[str]:
    """The position rule once more, axis by axis, from evaluation.md 2.2."""
    held = set()
    ox = (a[0] + a[2]) / 2 - (b[0] + b[2]) / 2
    oy = (a[1] + a[3]) / 2 - (b[1] + b[3]) / 2
    rx = max(abs(ox) - 0.1 * ((a[2] - a[0]) + (b[2] - b[0])), 0)
    ry = max(abs(oy) - 0.1 * ((a[3] - a[1]) + (b[3] - b[1])), 0)
    if rx < 1e-3 and ry < 1e-3:
        return held
    norm = math.hypot(ox, oy)
    if rx / norm > 0.5:
        held.add("right of" if ox > 0 else "left of")
    if ry / norm > 0.5:
        held.add("below" if oy > 0 else "above")
    return held


# Whole pixels, so that rounding cannot bring the two to different sides of a threshold by itself.
side = st.integers(1, 60)
corner = st.integers(0, 100)
boxes = st.builds(lambda x, y, w, h: (x, y, x + w, y + h), corner, corner, side, side)


@settings(max_examples=300, deadline=None)
@given(boxes, boxes)
def test_relations_agree_with_a_second_implementation(a, b):
    assert relations(seen(1, a), seen(1, b)) == reference_relations(a, b)


def test_judge_asks_the_detector():
    class Fixed:
        def detect(self, image):
            return {"cat": [seen(0.9)]}

        def color(self, image, detection, class_name):
            return "red"

    assert judge(IMAGE, line(one("cat", color="red")), Fixed()).correct
    assert not judge(IMAGE, line(one("cat", color="blue")), Fixed()).correct


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"prompt": "p"}, "asks for nothing"),
        (line({"count": 1}), "no `class`"),
        (line({"class": "cat"}), "`count`"),
        (line(one("cat", 0)), "`count`"),
        (line(one("cat", position=["left of", 0])), "position"),
        (line(one("dog"), one("cat", position=["beside", 0])), "position"),
    ],
)
def test_lines_that_are_not_genevals_are_refused(metadata, words):
    with pytest.raises(UserError, match=words):
        verdict(IMAGE, metadata, {}, no_color)
