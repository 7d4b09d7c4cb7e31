"""Sets of images by name of metric: what is refused, and numbers as the distances give them."""

from __future__ import annotations

import numpy as np
import pytest

from contrapose.errors import UserError
from contrapose.evaluate.sets import distances
from contrapose.evaluate.sets.measure import HIGHER_IS_BETTER, SET_METRICS, drift, measure
from contrapose.evaluate.sets.reference import ImageSet

RNG = np.random.default_rng


def image_set(seed: int, count: int = 40, extractor: str = "inception-clean 1", shift: float = 0.0) -> ImageSet:
    features = RNG(seed).normal(shift, 1, (count, 8)).astype(np.float32)
    classes = RNG(seed).dirichlet(np.ones(5), count).astype(np.float32)
    return ImageSet(features, classes, extractor, f"images {seed}")


def test_every_metric_has_its_number() -> None:
    model, reference = image_set(1), image_set(2, 100)
    values = measure({"a": model}, reference, list(SET_METRICS))["a"]
    assert set(values) == set(HIGHER_IS_BETTER)
    expected = distances.fid(distances.moments(model.features), distances.moments(reference.features))
    assert values["fid"].value == expected and values["fid"].spread is None
    assert values["kid"].spread is not None and values["is"].spread is not None


def test_a_set_that_moves_away_has_a_larger_distance_and_less_precision() -> None:
    values = measure({"near": image_set(1), "far": image_set(3, shift=2.0)}, image_set(2, 100), ["fid", "kid", "cmmd"])
    for name in ("fid", "kid", "cmmd"):
        assert values["far"][name].value > values["near"][name].value


def test_what_does_not_compare_is_refused() -> None:
    with pytest.raises(UserError, match=r"unequal size do not compare \(a 40, b 41\)"):
        measure({"a": image_set(1), "b": image_set(2, 41)}, image_set(3), ["fid"])
    with pytest.raises(UserError, match="do not compare; make the reference anew"):
        measure({"a": image_set(1)}, image_set(2, extractor="inception-pytorch 1"), ["fid"])
    with pytest.raises(UserError, match="fid compares with a reference"):
        measure({"a": image_set(1)}, None, ["fid"])
    mute = ImageSet(image_set(1).features, None, "clip-b 1", "")
    with pytest.raises(UserError, match="needs classes, which clip-b 1 does not tell"):
        measure({"a": mute}, None, ["is"])


def test_the_inception_score_needs_no_reference() -> None:
    assert measure({"a": image_set(1)}, None, ["is"])["a"]["is"].value > 1


def test_drift() -> None:
    a, b = image_set(1), image_set(2)
    assert drift(a, a) == pytest.approx(0, abs=1e-12)
    assert drift(a, b) == pytest.approx(1, abs=0.2)
    opposite = ImageSet(-a.features, None, a.extractor, "")
    assert drift(a, opposite) == pytest.approx(2)
    with pytest.raises(UserError, match="one by one"):
        drift(a, image_set(2, 41))
