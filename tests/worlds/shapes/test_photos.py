"""Photographs of the shapes world: what their captions say is there, and nothing that dev or test ask for."""

from __future__ import annotations

import numpy as np
from judging import as_prompt
from PIL import Image

from contrapose.worlds.shapes.appearance import appearance
from contrapose.worlds.shapes.grammar import TAGS, canonical_meanings, split_of
from contrapose.worlds.shapes.photos import photographs
from contrapose.worlds.shapes.pretrain import draw_example
from contrapose.worlds.shapes.suite import ShapesJudge

PHOTOS = list(photographs(240, seed=3))
MEANINGS = [meaning for tag in TAGS for meaning in canonical_meanings(tag)]


def test_captions_are_true():
    """Those that the six categories can judge; a caption of two meanings may be either."""
    told = {wording: meaning for meaning in MEANINGS for wording in meaning.wordings()}
    photos = [photo for photo in PHOTOS if photo.caption in told]
    images = [Image.fromarray(photo.image) for photo in photos]
    lines = [as_prompt(told[photo.caption].metadata(photo.caption)) for photo in photos]
    assert len(photos) > 100 and ShapesJudge()(images, lines)["correct"].values.mean() > 0.98


def test_nothing_of_dev_or_test_is_among_them():
    kept_back = {wording for m in MEANINGS if split_of(m) != "train" for wording in m.wordings()}
    assert len(kept_back) > 100 and kept_back.isdisjoint(p.caption for p in PHOTOS)


def test_they_look_better_than_nearly_all_that_the_model_learns_from():
    shown = [appearance(draw_example(0, number, 0.25)[0]).roughness for number in range(100)]
    worst = max(appearance(photo.image).roughness for photo in PHOTOS[:100])
    assert worst < 1e-6 and np.mean(np.array(shown) > 1.0) > 0.9


def test_a_photograph_depends_on_its_number_and_seed():
    again = list(photographs(5, seed=3))
    assert all((a.image == b.image).all() and a.caption == b.caption for a, b in zip(again, PHOTOS, strict=False))
    assert any((a.image != b.image).any() for a, b in zip(photographs(5, seed=4), PHOTOS, strict=False))
