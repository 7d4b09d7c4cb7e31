"""What is exchanged, what is replaced, what is left alone."""

import pytest

from contrapose.containers.left_out import LeftOut
from contrapose.degrade.degrader import Swap


def swapped(prompt, seed=0, num_variants=200):
    return set(Swap(num_variants).variants([prompt], seed)[0])


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        (
            "a red cube left of a blue sphere",
            {
                "a blue cube left of a red sphere",
                "a red cube right of a blue sphere",
                "a blue sphere left of a red cube",
            },
        ),
        ("A red cube and an orange ball", {"An orange cube and a red ball", "A red ball and an orange cube"}),
        ("two cats and three dogs", {"three cats and two dogs", "two dogs and three cats"}),
        ("the cube is red and the sphere is blue", {"the cube is blue and the sphere is red"}),
        ("a cup to the left of an egg", {"a cup to the right of an egg", "an egg to the left of a cup"}),
        ("a cup is on top of a box", {"a cup is underneath a box", "a box is on top of a cup"}),
        ("a cup inside a box", {"a cup outside a box", "a box inside a cup"}),
        ("a cup in front of a box, oil", {"a cup behind a box, oil", "a box in front of a cup, oil"}),
        ("a bird over the sea", {"a bird under the sea", "the sea over a bird"}),
        ("a man with a dog", {"a dog with a man"}),
        ("a wooden cup, a metal spoon", {"a metal cup, a wooden spoon"}),
        ("a small cup. a giant spoon", {"a giant cup. a small spoon"}),
        ("A RED CUBE, A BLUE BALL", {"A BLUE CUBE, A RED BALL"}),
        ("Red cubes, blue balls", {"Blue cubes, red balls"}),
    ],
)  # fmt: skip
def test_exchanges(prompt, expected):
    assert swapped(prompt) == expected


def test_an_attribute_alone_is_replaced_by_another_of_its_class_and_the_article_is_mended():
    variants = swapped("a photo of a red dog")
    assert "a photo of a blue dog" in variants and "a photo of an orange dog" in variants
    assert not variants & {"a photo of a scarlet dog", "a photo of a red dog"}
    assert swapped("an enormous bowl") == {"a tiny bowl"}
    assert swapped("two dogs") == {
        f"{n} dogs" for n in ("three", "four", "five", "six", "seven", "eight", "nine", "ten")
    }
    assert swapped("2 dogs") == {f"{count} dogs" for count in range(3, 11)}


def test_colours_of_one_object_are_replaced_not_exchanged():
    variants = swapped("a red and white cube")
    assert "a white and red cube" not in variants and "a red and red cube" not in variants
    assert "a blue and white cube" in variants and "a red and black cube" in variants


@pytest.mark.parametrize(
    "prompt",
    [
        "a photo of an orange and a banana",  # a fruit, not a colour
        "a cat and a dog",  # the exchange would mean the same
        "a cat next to a dog",
        "4k, 8k, 35mm, f/1.8, 16:9",
        "a photo of a bench",
        "redwood rightly overland",
        "красный куб слева от синего шара",
        "",
        "red",
    ],
)
def test_what_no_rule_fits_is_skipped_with_a_reason(prompt):
    [variants] = Swap().variants([prompt], 0)
    assert isinstance(variants, LeftOut) and variants.name == prompt and "exchange" in variants.reason


def test_words_of_one_sense_are_not_exchanged():
    assert "a large cup. a big spoon" not in swapped("a big cup. a large spoon")
    assert "a tiny cup. a large spoon" in swapped("a big cup. a large spoon")


def test_exchanges_come_before_replacements():
    for seed in range(20):
        [variants] = Swap(3).variants(["a red cube left of a tiny sphere"], seed)
        assert set(variants[:2]) == {"a red cube right of a tiny sphere", "a tiny sphere left of a red cube"}
        assert len(variants) == 3


def test_deterministic_bounded_and_independent_of_the_batch():
    prompts = ["a red dog", "a red cube left of a blue sphere", "three green birds above a yellow house"]
    together = Swap().variants(prompts, 5)
    assert together == [Swap().variants([prompt], 5)[0] for prompt in prompts]
    assert Swap().variants(prompts[::-1], 5) == together[::-1]
    assert Swap(2).variants(prompts, 5) == [variants[:2] for variants in together]
    assert len({Swap().variants(["a red dog"], seed)[0] for seed in range(20)}) > 10
