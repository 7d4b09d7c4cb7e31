"""Two real photographs, a Chinese pavilion and a dahlia, through every kind of spoiling."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from contrapose.backbones.embeddings import Embeddings
from contrapose.backbones.families.table import load_backbone
from contrapose.photographs.spoil import SPOILERS
from contrapose.photographs.spoil.corruptions import CORRUPTIONS
from contrapose.photographs.spoil.saliency import FORMULAS, masked
from contrapose.photographs.spoil.studio import Studio

datasets = pytest.importorskip("sklearn.datasets")

CAPTIONS = {"china.jpg": "a pavilion above a lake", "flower.jpg": "an orange dahlia before dark leaves"}
SIZE = (96, 64)


@lru_cache
def photograph(name: str, size: tuple[int, int] = SIZE) -> Image.Image:
    return Image.fromarray(datasets.load_sample_image(name)).resize(size, Image.Resampling.LANCZOS)


@pytest.fixture(scope="module")
def studios(tiny_family: Callable[[str], Path]) -> Callable[[str], Studio]:
    @lru_cache
    def studio(family: str) -> Studio:
        backbone = load_backbone(tiny_family(family))
        return Studio(backbone, Embeddings(backbone.text), steps=2)

    return studio


@pytest.mark.parametrize("kind", SPOILERS)
@pytest.mark.parametrize("family", ["sd", "sdxl", "flux", "sana"])
def test_photographs_are_spoiled(family: str, kind: str, studios: Callable[[str], Studio]) -> None:
    photos = [photograph(name) for name in CAPTIONS]
    losers = SPOILERS[kind]().spoil(photos, list(CAPTIONS.values()), [0, 1], studios(family))
    for photo, loser in zip(photos, losers, strict=True):
        change = np.abs(np.asarray(photo, dtype=int) - np.asarray(loser.image, dtype=int))
        assert loser.image.size == SIZE and change.mean() > 1
        if loser.mask is not None:
            mask = np.asarray(loser.mask)
            assert 0.1 < mask.mean() / 255 < 0.7
            assert not change[mask == 0].any() and change[mask == 255].mean() > 10


@pytest.mark.parametrize("formula", FORMULAS)
def test_the_dahlia_is_the_subject(formula: str) -> None:
    mask = masked(FORMULAS[formula](photograph("flower.jpg", (384, 256))), None, 0.2)
    y, x = np.mgrid[:256, :384]
    away = np.hypot(x - 185, y - 130)
    assert mask[away < 70].mean() > 0.85
    assert mask[(away > 110) & (y < 200)].mean() < 0.05


@pytest.mark.parametrize("kind", CORRUPTIONS)
@pytest.mark.parametrize("name", CAPTIONS)
def test_severities_are_graded_on_photographs(name: str, kind: str) -> None:
    pixels = np.asarray(photograph(name, (240, 160)), dtype=np.float64)
    made = [CORRUPTIONS[kind](pixels, severity, np.random.default_rng(1)).clip(0, 255) for severity in (1, 2, 3, 4, 5)]
    changes = [((one - pixels) ** 2).mean() for one in made]
    assert all(after > before for before, after in pairwise(changes)), changes
