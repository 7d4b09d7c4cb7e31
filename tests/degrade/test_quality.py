"""Praise that goes, praise that stays, where words of bad looks come, and what is left out."""

from pathlib import Path

import pytest

from contrapose.containers.left_out import LeftOut
from contrapose.degrade.looks import BAD_ADJECTIVES, BAD_PHRASES, PRAISE, Praise
from contrapose.degrade.quality import Quality
from contrapose.errors import UserError

DUSTY = Quality(adjectives=("dusty", "stained"))


def worse(prompt: str, quality: Quality = DUSTY, seed: int = 0) -> set[str]:
    [variants] = quality.variants([prompt], seed)
    assert not isinstance(variants, LeftOut), variants
    return set(variants)


@pytest.mark.parametrize(
    ("prompt", "plain"),
    [
        ("a cat, 8k, highly detailed, masterpiece", "a cat"),
        ("masterpiece, best quality, 1girl, solo", "1girl, solo"),
        ("a cat, ((best quality)), (masterpiece:1.2), oil on canvas", "a cat, oil on canvas"),
        ("a professional photo of a professional dancer", "a photo of a professional dancer"),
        ("a clean, very sharp picture of two stars", "a picture of two stars"),
        ("A highly detailed oil painting of a castle", "An oil painting of a castle"),
        ("Award winning photo of a fox. 8k. Sharp focus.", "Photo of a fox."),
        ("a dragon, extremely detailed with sharp focus", "a dragon"),
        ("a cat in 8k resolution | a dog", "a cat | a dog"),
        # said of what is shown, and of no picture
        ("a beautiful woman in a clean kitchen", "a beautiful woman in a clean kitchen"),
        ("a river with clear water", "a river with clear water"),
        ("beautiful woman, portrait", "beautiful woman, portrait"),
        ("a 4kg cat, hd-ready", "a 4kg cat, hd-ready"),
        ("a blurry photo, grainy", "a blurry photo, grainy"),
        ("masterpiece, trending, best quality", ""),
    ],
)  # fmt: skip
def test_praise_of_the_picture_is_taken_out_and_of_what_it_shows_is_not(prompt: str, plain: str) -> None:
    assert Praise(PRAISE).taken_out(prompt) == plain


@pytest.mark.parametrize(
    ("prompt", "lead_in", "tail"),
    [
        ("a photo of a cat", "a dusty photo of a cat", "a photo of a cat, dusty"),
        ("An image of an owl", "A dusty image of an owl", "An image of an owl, dusty"),
        ("Photo of a cat", "Dusty photo of a cat", "Photo of a cat, dusty"),
        ("two film photos of cats", "two dusty film photos of cats", "two film photos of cats, dusty"),
        ("A red ring", "A dusty picture of a red ring", "A red ring, dusty"),
        ("three stars", "a dusty picture of three stars", "three stars, dusty"),
        ("A cat sits on a mat.", None, "A cat sits on a mat. Dusty."),
        ("1girl, solo, ", None, "1girl, solo, dusty"),
    ],
)  # fmt: skip
def test_bad_looks_come_before_the_medium_or_after_the_prompt(prompt: str, lead_in: str | None, tail: str) -> None:
    words = ("dusty",)
    assert worse(prompt, Quality(adjectives=words)) == {text for text in (lead_in, tail) if text}
    assert worse(prompt, Quality(adjectives=words, place="tail")) == {tail}
    [variants] = Quality(adjectives=words, place="lead-in").variants([prompt], 0)
    assert variants == (lead_in,) if lead_in else isinstance(variants, LeftOut)


def test_the_article_fits_the_word_that_comes() -> None:
    assert "an old picture of a ring" in worse("a ring", Quality(adjectives=("old",)))


def test_phrases_stand_in_the_tail_alone() -> None:
    quality = Quality(adjectives=("dusty",), phrases=("harsh light",), num_phrases=1)
    assert worse("a photo of a cat", quality) == {
        "a dusty photo of a cat", "a photo of a cat, dusty", "a photo of a cat, harsh light",
    }  # fmt: skip


def test_what_a_prompt_says_already_stays_and_is_not_said_twice() -> None:
    assert worse("a dusty photo of a cat", Quality(adjectives=("dusty", "stained"), place="lead-in")) == {
        "a stained dusty photo of a cat"
    }
    assert isinstance(DUSTY.variants(["a cat, dusty and stained"], 0)[0], LeftOut)


def test_the_usual_words_are_as_many_as_wanted_and_differ() -> None:
    for num in (1, 3):
        [variants] = Quality(num_phrases=num, num_variants=8, place="tail").variants(["a photo of a cat, 8k"], 0)
        assert len(set(variants)) == len(variants) == 8
        for text in variants:
            assert isinstance(text, str)
            words = text.removeprefix("a photo of a cat, ").split(", ")
            assert len(set(words)) == num and set(words) <= {*BAD_ADJECTIVES, *BAD_PHRASES}


def test_a_prompt_goes_by_its_own_seed_and_more_variants_change_none() -> None:
    prompts = ["a photo of a cat", "a red ring left of a star", "a castle, 8k"]
    together = Quality().variants(prompts, 5)
    assert together == [Quality().variants([prompt], 5)[0] for prompt in prompts]
    assert [variants[:2] for variants in together] == Quality(num_variants=2).variants(prompts, 5)
    assert len({Quality().variants(["a cat"], seed)[0] for seed in range(10)}) == 10
    assert Quality(num_variants=2).variants(["a photo of a cat"], 0) == [PINNED]


PINNED = ("a poorly composed, out of focus photo of a cat", "a smudged, blurry photo of a cat")


def test_words_are_read_from_files_and_parted_by_commas(tmp_path: Path) -> None:
    file = tmp_path / "bad.txt"
    file.write_text("dusty\nstained, torn\n")
    listed = Quality(adjectives=(str(file), "old"), num_variants=50, num_phrases=1, place="tail")
    assert worse("a cat", listed) == {f"a cat, {word}" for word in ("dusty", "stained", "torn", "old")}


def test_praise_of_ones_own_takes_the_place_of_the_usual_one() -> None:
    quality = Quality(adjectives=("dusty",), praise=("shiny",), place="tail")
    assert worse("a shiny photo of a cat, 8k", quality) == {"a photo of a cat, 8k, dusty"}


@pytest.mark.parametrize("name", ["adjectives", "phrases", "praise"])
def test_an_empty_word_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"{name}: holds an empty text"):
        Quality(**{name: ("good", " ,")})


def test_phrases_alone_have_no_lead_in() -> None:
    with pytest.raises(UserError, match=r"place lead-in: .*name adjectives"):
        Quality(phrases=("harsh light",), place="lead-in")


@pytest.mark.parametrize("prompt", ["", "  ", "masterpiece, 8k"])
def test_nothing_to_show_is_left_out_with_a_reason(prompt: str) -> None:
    [variants] = Quality().variants([prompt], 0)
    assert isinstance(variants, LeftOut) and variants.name == prompt and "nothing" in variants.reason
