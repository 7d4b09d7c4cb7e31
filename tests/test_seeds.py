"""Starting noise depends on prompt and seed alone, and is standard normal."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from contrapose.seeds import generator, identifier, prompt_seed, python_stream, seed_of, starting_noise

SHAPE = (4, 8, 8)


def test_a_row_depends_on_its_own_stream() -> None:
    alone = starting_noise([generator("a cat", 3)], SHAPE)[0]
    among = starting_noise([generator("a dog", 3), generator("a cat", 2), generator("a cat", 3)], SHAPE)
    assert torch.equal(among[2], alone)
    assert not torch.equal(among[1], alone)
    assert not torch.equal(among[0], alone)


def test_noise_is_standard_normal() -> None:
    """A field's mistake: noise drawn uniform. The share beyond one deviation tells them apart."""
    noise = starting_noise([generator("a cat", seed) for seed in range(256)], SHAPE)
    assert abs(noise.mean()) < 0.02
    assert abs(noise.std() - 1) < 0.02
    assert abs((noise.abs() > 1).float().mean() - 0.3173) < 0.01
    rows = noise.flatten(1)
    assert (rows @ rows.T / rows.shape[1]).fill_diagonal_(0).abs().max() < 0.4, "streams are independent"


@pytest.mark.parametrize("text", ["", "a cat", "猫 🎨", "\ud800", "x" * 10_000])
def test_any_text_has_a_seed(text: str) -> None:
    assert 0 <= seed_of(text, 0) < 2**63
    generator(text, 0)


def test_parts_do_not_run_together() -> None:
    assert len({seed_of("ab", "c"), seed_of("a", "bc"), seed_of("abc"), seed_of("a", "b", "c")}) == 4


def test_another_process_draws_the_same() -> None:
    """Python's own `hash` would not."""
    code = "from contrapose.seeds import seed_of; print(seed_of('a cat', 7))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(other.stdout) == seed_of("a cat", 7)


def test_values_that_stores_hold_never_change() -> None:
    """Each was written down from the code that made the first stores."""
    assert seed_of("a cat", 7) == 4377416239989892250
    assert seed_of("猫 🎨", 1, "flip") == 6252339919344504063
    assert generator("a cat", 3).initial_seed() == 8791666007621718741
    assert seed_of("a red circle", bits=64) == 11665627608967327067, "of the shapes world's ceiling"
    rank = "a1e4a280d27cad5b1aa05b230031f649a0ef0b265df51db178bcf44ccd129fd0"
    assert seed_of("a red circle", bits=256) == int(rank, 16), "by which its grammar deals"
    assert [prompt_seed(7, 0, bits=31), prompt_seed(0, 3, bits=31)] == [650862827, 1302014959], "of a question's trial"
    assert [prompt_seed(7, "a cat"), prompt_seed(5, "猫")] == [63188219898869620, 8616738180831083428]
    assert python_stream(7, "words", "a cat").getrandbits(64) == 13976567035970236922
    assert python_stream(0, "choose", "猫").random() == 0.45824848933701534
    assert [identifier("a.png", "abc"), identifier("x", 9)] == ["02ffe14edcf33f12", "4bed00fe9fea5d02"]


def test_a_seed_needs_no_torch() -> None:
    code = "import sys; from contrapose.seeds import seed_of; seed_of(1); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
