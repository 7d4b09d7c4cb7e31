"""Filters against closed forms: what each keeps, whom it asks, and that their order matters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from contrapose.containers.stored import InFile
from contrapose.errors import UserError
from contrapose.judges.colours import Colours, colourfulness
from contrapose.judges.http_scorer import HTTPScorer
from contrapose.photographs.candidates import Candidate
from contrapose.photographs.filters import (
    BOTH,
    FILTERS,
    AestheticScore,
    CaptionLength,
    Colourfulness,
    IsPhotograph,
    PhotoSize,
    ScorerGap,
    TopK,
    needs_loser,
    scored,
)
from contrapose.photographs.gallery import Gallery
from contrapose.photographs.stages import Sift
from contrapose.store.buckets import Size as Pixels


def candidate(number: int = 0, size: tuple[int, int] = (64, 64), caption: str = "a b c", **scores: float) -> Candidate:
    """A candidate with scores under `winner m` and `loser m`."""
    numbers = {f"{side} m": score for side, score in scores.items()}
    pixels = Pixels(*size)
    place = InFile(Path(f"{number}.png"))
    return Candidate(number, f"{number}", place.name, place, pixels, 0, pixels, 0, caption, scores=numbers)


def kept(some: object, table: Sequence[Candidate]) -> list[str]:
    return [c.id for c, reason in zip(table, some.reasons(table, "m"), strict=True) if reason is None]


def of_winners(*scores: float) -> list[Candidate]:
    return [candidate(number, winner=score) for number, score in enumerate(scores)]


def of_pairs(*scores: tuple[float, float]) -> list[Candidate]:
    return [candidate(number, winner=winner, loser=loser) for number, (winner, loser) in enumerate(scores)]


@pytest.mark.parametrize(
    ("some", "expected"),
    [
        (PhotoSize(max_aspect=100), ["0", "1", "2", "3"]),
        (PhotoSize(min_side=50, max_aspect=100), ["0", "2"]),
        (PhotoSize(min_pixels=64 * 64, max_aspect=100), ["0", "1", "2"]),
        (PhotoSize(), ["0", "2", "3"]),
        (PhotoSize(max_aspect=4), ["0", "1", "2", "3"]),
    ],
)
def test_size(some, expected):
    sizes = [(64, 64), (160, 40), (60, 180), (40, 60)]
    table = [candidate(number, size) for number, size in enumerate(sizes)]
    assert kept(some, table) == expected


def test_caption_length_counts_words():
    captions = ["one", "one  two", "a b c d", "a b c d e", ""]
    table = [candidate(number, caption=caption) for number, caption in enumerate(captions)]
    assert kept(CaptionLength(2, 4), table) == ["1", "2"]
    [reason] = CaptionLength(2, 4).reasons([table[3]], "")
    assert reason == "its caption has 5 words; 2 to 4 are asked for"


def flat(*colour: int) -> Image.Image:
    return Image.new("RGB", (8, 6), colour)


def test_colourfulness_of_what_is_known():
    """One colour has no deviation; two halves of opposite colours have no mean of red against green."""
    assert colourfulness(flat(90, 90, 90)) == 0
    assert colourfulness(flat(255, 0, 0)) == pytest.approx(0.3 * math.hypot(255, 127.5))
    assert colourfulness(flat(0, 0, 200)) == pytest.approx(0.3 * 200)
    halves = flat(200, 0, 0)
    halves.paste((0, 200, 0), (0, 0, 4, 6))
    assert colourfulness(halves) == pytest.approx(200 + 0.3 * 100)  # rg is +-200, yb is 100 all over


def test_colourfulness_is_the_formula():
    pixels = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    rg = [float(r) - float(g) for r, g, _ in pixels.reshape(-1, 3)]
    yb = [(float(r) + float(g)) / 2 - float(b) for r, g, b in pixels.reshape(-1, 3)]
    (mean_rg, var_rg), (mean_yb, var_yb) = (
        (sum(x) / len(x), sum(v * v for v in x) / len(x) - (sum(x) / len(x)) ** 2) for x in (rg, yb)
    )
    expected = math.sqrt(var_rg + var_yb) + 0.3 * math.sqrt(mean_rg**2 + mean_yb**2)
    assert colourfulness(Image.fromarray(pixels)) == pytest.approx(expected)


def test_colourfulness_has_both_published_readings():
    pairs = of_pairs((10.0, 20.0), (30.0, 31.0), (26.0, 5.0))
    assert kept(Colourfulness(), pairs) == ["1", "2"]  # over the mean, 22
    assert kept(Colourfulness(threshold=26.0), pairs) == ["1"]  # over, not at
    assert kept(Colourfulness(reading="pair"), pairs) == ["2"]
    assert not needs_loser(Colourfulness()) and needs_loser(Colourfulness(reading="pair"))
    with pytest.raises(UserError, match="threshold is unused"):
        Colourfulness(reading="pair", threshold=3.0)


def test_a_gap_is_more_than_its_threshold():
    assert kept(ScorerGap(threshold=0.5), of_pairs((20.5, 20.0), (20.75, 20.0), (19.0, 20.0))) == ["1"]
    assert kept(ScorerGap(), of_pairs((20.01, 20.0), (20.03, 20.0), (20.5, 20.0))) == [
        "1",
        "2",
    ]


@pytest.mark.parametrize(
    ("k", "expected"), [(1, ["1"]), (2, ["1", "3"]), (3, ["0", "1", "3"]), (9, ["0", "1", "2", "3"])]
)
def test_top_k_keeps_the_best_and_of_equals_the_earlier(k, expected):
    assert kept(TopK(k), of_winners(2.0, 5.0, 2.0, 4.0)) == expected


def test_top_k_of_none_is_refused():
    with pytest.raises(UserError, match="k 0: a whole number from 1"):
        TopK(0)


def test_captions_of_no_length_are_refused():
    with pytest.raises(UserError, match="min_words 3 is more than max_words 2"):
        CaptionLength(min_words=3, max_words=2)


def test_thresholds_of_the_winner():
    assert kept(IsPhotograph(), of_winners(0.5, 0.51, 0.1)) == ["1"]
    assert kept(AestheticScore(), of_winners(5.0, 4.0, 6.5)) == ["2"]


def test_order_matters():
    """The best two of those that are better than their losers, or the better ones of the best two."""
    table = of_pairs((9.0, 10.0), (8.0, 10.0), (7.0, 1.0), (6.0, 1.0))

    def both(first, second):
        left = kept(first, table)
        return kept(second, [c for c in table if c.id in left])

    gap, best = ScorerGap(threshold=0.5), TopK(2)
    assert both(gap, best) == ["2", "3"]
    assert both(best, gap) == []


def test_every_filter_says_what_it_needs():
    for name, cls in FILTERS.items():
        some = cls()
        assert (some.scorer is None) == (not some.sides), name
        assert needs_loser(some) == (some.sides == BOTH)
    assert [name for name, cls in FILTERS.items() if needs_loser(cls())] == ["scorer-gap"]


@pytest.mark.parametrize("cls", [ScorerGap, TopK, IsPhotograph, AestheticScore])
def test_absent_weights_stop(cls, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"\S") as told:
        cls().scorer.load("cpu")
    assert len(str(told.value).splitlines()) == 1


def test_numbers_go_to_the_image_that_they_are_of():
    """Three candidates, of which one needs both sides, one the loser alone and one nothing."""
    grey, red, blue = flat(9, 9, 9), flat(255, 0, 0), flat(0, 0, 200)
    batch = [candidate(0), replace(candidate(1), scores={"winner m": 7.0}), candidate(2)]
    found = scored(batch, [{"winner": red, "loser": grey}, {"loser": blue}, {}], Colours(), "m")
    assert found[0].scores == {"winner m": colourfulness(red), "loser m": 0.0}
    assert found[1].scores == {"winner m": 7.0, "loser m": pytest.approx(60.0)}
    assert found[2].scores == {}


def test_a_scorer_of_which_less_is_better_is_refused_before_anything_is_scored() -> None:
    """More of its numbers would be kept, which are the worse photographs."""
    gallery = Gallery(Path("images"), Path())
    for some in (
        TopK(scorer=HTTPScorer(scorer="s", lower=("blur",))),
        ScorerGap(HTTPScorer(scorer="s", lower=("blur",))),
    ):
        with pytest.raises(UserError, match=rf"filter {some.name}: keeps what has more blur, of which less is better"):
            Sift(some, gallery, "cpu", 1).check()
    Sift(TopK(scorer=HTTPScorer(scorer="s", higher=("sharpness",))), gallery, "cpu", 1).check()
