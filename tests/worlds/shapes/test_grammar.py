"""The held-out split holds, and metadata says what the prompt says."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from contrapose.evaluate.verdict import verdict
from contrapose.worlds.shapes.detector import THRESHOLDS, ShapesDetector
from contrapose.worlds.shapes.grammar import TAGS, UNSEEN_BINDINGS, canonical_meanings, is_seen, prompts, split_of
from contrapose.worlds.shapes.render import render
from contrapose.worlds.shapes.scenes import scene_of

SPLITS = ("train", "dev", "test")


def truth(line: dict) -> object:
    """What a line says, worked out from the line alone: order and point of view do not matter."""
    things = [(c["class"], c["count"], c.get("color")) for c in line["include"]]
    if "position" not in line["include"][-1]:
        return frozenset(things)
    relation, target = line["include"][-1]["position"]
    subject, reference = things[1], things[target]
    return ("x" if relation in ("left of", "right of") else "y",
            (subject, reference) if relation in ("left of", "above") else (reference, subject))  # fmt: skip


@pytest.fixture(scope="module")
def lines() -> dict[str, list[dict]]:
    return {split: prompts(split, per_tag=10_000) for split in SPLITS}


@pytest.mark.parametrize(("tag", "number"), zip(TAGS, (6, 15, 18, 48, 60, 840), strict=True))
def test_numbers_of_meanings(tag, number):
    meanings = canonical_meanings(tag)
    assert len({m.key for m in meanings}) == len(meanings) == number
    assert all(m.tag == tag and m.canonical() == m for m in meanings)


def test_no_meaning_stands_on_two_sides(lines):
    truths = {split: {truth(line) for line in lines[split]} for split in SPLITS}
    for one, other in itertools.combinations(SPLITS, 2):
        assert not truths[one] & truths[other]
    assert sum(map(len, truths.values())) == 6 + 15 + 18 + 48 + 60 + 840


def test_every_side_asks_for_every_tag(lines):
    for split in SPLITS:
        assert {line["tag"] for line in lines[split]} == set(TAGS)


def test_unseen_bindings_never_train_and_are_tested(lines):
    def bindings(split):
        return {(c.get("color"), c["class"]) for line in lines[split] for c in line["include"]}

    assert not bindings("train") & UNSEEN_BINDINGS
    assert bindings("test") >= UNSEEN_BINDINGS
    assert all(is_seen(m) for tag in TAGS for m in canonical_meanings(tag) if split_of(m) == "train")


def test_prompts_are_stable_and_limited():
    assert prompts("test", 5) == prompts("test", 5)
    counts = [line["tag"] for line in prompts("test", 5)]
    assert all(counts.count(tag) == 5 for tag in TAGS)


@pytest.mark.parametrize("tag", TAGS)
def test_metadata_of_every_wording_is_satisfied_by_a_render(tag):
    rng, detector = np.random.default_rng(0), ShapesDetector()
    meanings = canonical_meanings(tag)
    for meaning in meanings[:: max(1, len(meanings) // 20)]:
        image = render(scene_of(meaning, rng))
        found = detector.detect(image)
        for wording in meaning.wordings():
            judged = verdict(image, meaning.metadata(wording), found, detector.color, THRESHOLDS)
            assert judged.correct, (wording, judged.reason)


def test_metadata_follows_the_wording_not_the_meaning():
    meaning = canonical_meanings("position")[0]
    told = {wording: meaning.metadata(wording)["include"] for wording in meaning.wordings()}
    for wording, (reference, subject) in told.items():
        assert (
            wording.index(subject["class"]) < wording.index(subject["position"][0]) < wording.index(reference["class"])
        )


def test_articles_and_plurals():
    wordings = [w for tag in TAGS for m in canonical_meanings(tag) for w in m.wordings()]
    assert any("an orange" in w for w in wordings) and not any("a orange" in w for w in wordings)
    assert any("crosses" in w for w in wordings) and not any("crosss" in w for w in wordings)
