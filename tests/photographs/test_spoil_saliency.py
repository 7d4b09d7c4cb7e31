"""Where the subject is: one odd object is found by both formulas, and by a model that segments."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from contrapose.errors import UserError
from contrapose.photographs.spoil.saliency import FORMULAS, frequency_tuned, masked, normalised, otsu
from contrapose.photographs.spoil.segmenter import Segmenter

INSIDE = np.s_[40:64, 56:80]


def scene(colour=(230, 90, 40)) -> Image.Image:
    """A green, slightly grained wall with one odd square on it."""
    pixels = np.random.default_rng(0).normal((60, 120, 70), 4, (96, 128, 3))
    pixels[INSIDE] = np.random.default_rng(1).normal(colour, 4, (24, 24, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("formula", FORMULAS)
def test_the_odd_object_stands_out(formula):
    found = FORMULAS[formula](scene())
    outside = np.ones(found.shape, bool)
    outside[INSIDE] = False
    assert found.shape == (96, 128) and found.min() == 0 and found.max() == 1
    assert found[INSIDE].mean() > 3 * found[outside].mean()
    covered = masked(found, None, 0.2)
    assert covered[INSIDE].mean() > 0.5 > 5 * covered[outside].mean()


@pytest.mark.parametrize("formula", FORMULAS)
@pytest.mark.parametrize("size", [(16, 16), (24, 16), (16, 40)])
def test_a_photograph_without_contrast_is_all_subject(formula, size):
    found = FORMULAS[formula](Image.new("RGB", size, (90, 200, 10)))
    assert found.shape == size[::-1] and (found == 1).all() and (masked(found, None, 0.2) == 1).all()


def test_frequency_tuned_is_a_distance_in_lab():
    """Black on two thirds and grey on one: L = 0 and 50, the mean between them at a third."""
    pixels = np.zeros((40, 90, 3), np.uint8)
    pixels[:, 60:] = 119
    found = frequency_tuned(Image.fromarray(pixels))
    # In units of that 50, distances are 1/3 on black, 2/3 on grey, and least where the blur has 5/16 of the grey.
    least = 1 / 3 - 5 / 16
    assert found[20, 80] == 1
    np.testing.assert_allclose(found[:, :50], (1 / 3 - least) / (2 / 3 - least), atol=1e-6)


def test_otsu_sets_two_groups_apart():
    values = np.concatenate([np.full(300, 0.2), np.full(100, 0.8)])
    assert 0.2 < otsu(values) <= 0.8
    low = np.random.default_rng(0).normal(0.2, 0.03, 900)
    high = np.random.default_rng(1).normal(0.7, 0.03, 100)
    assert 0.3 < otsu(np.concatenate([low, high]).clip(0, 1)) < 0.6


def test_a_mask_has_a_soft_edge_at_the_threshold():
    ramp = np.linspace(0, 1, 101)[None].repeat(101, 0)
    mask = masked(ramp, 0.6, 0.2)
    middle = mask[50]
    assert middle[60] == pytest.approx(0.5, abs=0.02)
    assert middle[45] == 0 and middle[75] == 1 and (np.diff(middle) >= 0).all()
    np.testing.assert_allclose(masked(ramp, 0.5, 1.0)[50, 5:-5], ramp[50, 5:-5], atol=1e-6)


def test_what_reaches_no_threshold_is_masked_all_over():
    speck = np.zeros((200, 200))
    speck[100, 100] = 1  # which the smoothing spreads
    assert (masked(speck, 0.9, 0.2) == 1).all()
    assert 0 < masked(speck, None, 0.01).mean() < 0.1


def test_normalised_maps_reach_from_0_to_1():
    found = normalised(np.array([[2.0, 3.0], [4.0, 6.0]]))
    np.testing.assert_allclose(found, [[0, 0.25], [0.5, 1]])


def save_segmenter(folder, labels: list[str]):
    """A tiny random SegFormer with its processor."""
    from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessor

    config = SegformerConfig(
        depths=[1, 1, 1, 1],
        hidden_sizes=[8, 8, 16, 16],
        decoder_hidden_size=8,
        num_attention_heads=[1, 1, 2, 2],
        id2label=dict(enumerate(labels)),
        label2id={name: number for number, name in enumerate(labels)},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        SegformerForSemanticSegmentation(config).save_pretrained(folder)
    SegformerImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("labels", [["cat", "background", "dog"], ["subject"]])
def test_a_model_tells_what_is_not_background(tmp_path, labels):
    from transformers import AutoImageProcessor, SegformerForSemanticSegmentation

    segment = Segmenter(str(save_segmenter(tmp_path / "model", labels)), "cpu")
    photos = [scene(), scene((20, 20, 240))]
    found = segment(photos)
    inputs = AutoImageProcessor.from_pretrained(tmp_path / "model")(images=photos, return_tensors="pt")
    with torch.no_grad():
        logits = SegformerForSemanticSegmentation.from_pretrained(tmp_path / "model")(**inputs).logits
    logits = torch.nn.functional.interpolate(logits.double(), size=(96, 128), mode="bilinear")
    share = logits[:, 0].sigmoid() if len(labels) == 1 else logits.softmax(1)[:, [0, 2]].sum(1)
    for one, expected in zip(found, share.numpy(), strict=True):
        np.testing.assert_allclose(one, (expected - expected.min()) / np.ptp(expected), atol=1e-6)
    np.testing.assert_allclose(segment(photos[1:])[0], found[1], atol=1e-3)


def test_what_cannot_segment_is_told_in_one_line(tmp_path):
    save_segmenter(tmp_path / "no-background", ["wall", "sky", "tree"])
    (tmp_path / "empty").mkdir()
    for name, told in (("absent", "no such folder"), ("empty", "cannot be loaded"), ("no-background", "none of its")):
        with pytest.raises(UserError, match=told) as error:
            Segmenter(str(tmp_path / name), "cpu")
        assert "\n" not in str(error.value)
