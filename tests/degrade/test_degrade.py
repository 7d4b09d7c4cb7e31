"""Random removal as published; every degrader's draw depends on (seed, prompt) alone."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contrapose.containers.left_out import LeftOut
from contrapose.degrade.degrader import Swap, Words, choose
from contrapose.degrade.degraders import DEGRADERS
from contrapose.degrade.quality import Quality
from contrapose.errors import UserError

WORDS = st.lists(st.text(st.characters(exclude_categories=["Cs", "Zs", "Cc", "Zl", "Zp"]), min_size=1), min_size=2)
PROMPTS = WORDS.map(" ".join).filter(lambda prompt: len(prompt.split()) >= 2)
ODD = ["", " ", "cat", "\0", "a\0b c\0d", "赤い立方体 と 青い球", "красный куб слева от синего шара", "x" * 10_000]
LONG = "red cube left of blue ball, " * 357  # 10,000 characters


def is_subsequence(short, long):
    rest = iter(long)
    return all(word in rest for word in short)


@settings(deadline=None, max_examples=60)
@given(PROMPTS, st.integers(0, 2**32))
def test_words_keeps_order_and_counts(prompt, seed):
    [variants] = Words().variants([prompt], seed)
    words = prompt.split()
    n = len(words)
    assert 1 <= len(variants) <= 5 and len(set(variants)) == len(variants)
    for variant in variants:
        kept = variant.split()
        assert kept and variant != prompt and is_subsequence(kept, words)
        assert max(1, math.floor(0.4 * n)) <= n - len(kept) <= max(1, math.floor(0.7 * n))


@settings(deadline=None, max_examples=30)
@given(st.lists(PROMPTS, min_size=1, max_size=4), st.integers(0, 2**32), st.randoms())
def test_words_does_not_depend_on_order_or_batching(prompts, seed, rng):
    together = dict(zip(prompts, Words().variants(prompts, seed), strict=True))
    shuffled = prompts.copy()
    rng.shuffle(shuffled)
    assert {prompt: Words().variants([prompt], seed)[0] for prompt in shuffled} == together


def test_words_reaches_both_ends_of_the_ratio_and_varies_with_the_seed():
    prompt = " ".join(f"w{number}" for number in range(100))
    drawn = [Words().variants([prompt], seed)[0] for seed in range(200)]
    dropped = [100 - len(variant.split()) for variants in drawn for variant in variants]
    assert {min(dropped), max(dropped)} == {40, 69}
    assert abs(sum(dropped) / len(dropped) - 54.5) < 1  # U(0.4, 0.7), truncated
    assert len(set(drawn)) == 200
    first = [sum(variant.split()[0] == "w0" for variant in variants) for variants in drawn]
    assert 0.35 < sum(first) / len(dropped) < 0.55  # each word stays with probability 1 - 0.545


def test_words_is_the_same_in_every_process():
    assert Words().variants(["a red cube left of a blue sphere"], 7) == [PINNED]


PINNED = ("red cube left of", "a red left a sphere", "a cube left of", "of blue sphere", "red left a blue sphere")


@pytest.mark.parametrize("prompt", ["", "  ", "cat", "x" * 10_000])
def test_words_skips_fewer_than_two_words_with_a_reason(prompt):
    [entry] = Words().variants([prompt], 0)
    assert isinstance(entry, LeftOut) and (entry.name, entry.kind) == (prompt, "not degraded")
    assert "two words" in entry.reason


def test_two_equal_words_leave_one():
    assert Words().variants(["cat cat"], 0) == [("cat",)]


@pytest.mark.parametrize("degrader", [Words(), Swap(), Quality()])
def test_odd_prompts_never_raise(degrader):
    for variants, prompt in zip(degrader.variants([*ODD, LONG], 3), [*ODD, LONG], strict=True):
        if isinstance(variants, LeftOut):
            assert variants.name == prompt
            continue
        assert prompt not in variants and 1 <= len(set(variants)) == len(variants) <= 5
    assert len(degrader.variants([LONG], 3)[0]) == 5


@pytest.mark.parametrize(
    "bad", [{"low": 0}, {"low": 0.8}, {"high": 1.0}, {"low": math.nan}, {"num_variants": 0}, {"num_trials": 0}]
)
def test_words_settings_are_checked(bad):
    with pytest.raises(UserError, match=next(iter(bad))):
        Words(**bad)


def test_choose_is_fixed_by_seed_and_prompt_and_reaches_every_variant():
    variants = ("a", "b", "c")
    assert choose(variants, 1, "p") == choose(list(variants), 1, "p")
    assert {choose(variants, seed, "p") for seed in range(40)} == set(variants)
    assert {choose(variants, 1, str(prompt)) for prompt in range(40)} == set(variants)


def test_every_name_is_of_a_degrader():
    assert all(hasattr(degrader, "variants") for degrader in DEGRADERS.values())
