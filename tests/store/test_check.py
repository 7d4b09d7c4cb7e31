"""`check` counts, and finds each thing that would spoil a run; each test spoils one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from contrapose.store.check import Findings, TooLong, check
from contrapose.store.pairs import PairRecord, PairStore, shard_path

Write = Callable[..., Path]


class Pairs:
    """Records and latents to spoil before they are written."""

    def __init__(self, write: Write, folder: Path):
        self.write, self.folder = write, folder
        self.records = [PairRecord(f"id-{i}", f"a red circle {i}", f"circle {i}", i) for i in range(6)]
        self.winner, self.loser = torch.randn(2, 6, 4, 2, 2)

    def spoil(self, index: int, **changes: object) -> None:
        self.records[index] = dataclasses.replace(self.records[index], **changes)

    def findings(self, too_long: TooLong | None = None) -> Findings:
        if not self.folder.exists():
            self.write(self.folder, self.records, {"winner": self.winner, "loser": self.loser}, shard_size=2)
        *counts, found = check(PairStore(self.folder, complete=False), too_long)
        assert counts == list(range(1, len(counts) + 1)), "progress counts latents"
        return found


@pytest.fixture
def pairs(write_store: Write, tmp_path: Path) -> Pairs:
    return Pairs(write_store, tmp_path / "pairs")


def test_sound_pairs(pairs: Pairs) -> None:
    pairs.spoil(1, prompt=pairs.records[0].prompt)
    found = pairs.findings(lambda prompts: [])
    assert (found.problems, found.remarks) == ({}, {})
    assert found.lines() == ["6 pairs of 5 prompts in 3 shards"]


def _only(found: dict[str, list[str]]) -> tuple[str, list[str]]:
    assert len(found) == 1
    return next(iter(found.items()))


def test_identifier_twice(pairs: Pairs) -> None:
    pairs.spoil(3, id="id-0")
    assert _only(pairs.findings().problems) == ("identifiers used twice", ["id-0"])


def test_pair_that_repeats_another(pairs: Pairs) -> None:
    first = pairs.records[0]
    pairs.spoil(3, prompt=first.prompt, degraded=first.degraded, seed=first.seed)
    found = pairs.findings()
    assert found.problems == {}
    assert _only(found.remarks) == ("pairs that repeat another", [first.prompt])


def test_empty_prompt(pairs: Pairs) -> None:
    pairs.spoil(2, prompt=" \t")
    assert _only(pairs.findings().problems) == ("empty prompts", ["id-2"])


def test_degraded_prompt_equal_to_its_prompt(pairs: Pairs) -> None:
    pairs.spoil(2, degraded="a  red circle 2 ")  # the same words
    assert _only(pairs.findings().problems) == ("degraded prompts equal to their prompt", ["id-2"])


def test_imported_pairs_have_no_degraded_prompts(pairs: Pairs) -> None:
    for index in range(6):
        pairs.spoil(index, degraded="")
    found = pairs.findings()
    assert (found.problems, found.remarks) == ({}, {})


def test_some_pairs_without_a_degraded_prompt(pairs: Pairs) -> None:
    pairs.spoil(4, degraded=" ")
    assert _only(pairs.findings().problems) == ("no degraded prompt, while other pairs have one", ["id-4"])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("side", ["winner", "loser"])
def test_latent_that_is_not_finite(pairs: Pairs, side: str, value: float) -> None:
    getattr(pairs, side)[4, 1, 0, 1] = value
    assert _only(pairs.findings().problems) == ("latents that are not finite", [f"id-4 {side}"])


def test_loser_identical_to_its_winner(pairs: Pairs) -> None:
    pairs.loser[5] = pairs.winner[5]
    assert _only(pairs.findings().problems) == ("losers identical to their winner", ["id-5"])


@pytest.mark.parametrize("index", [0, 1, 2])
def test_missing_shard(pairs: Pairs, index: int) -> None:
    pairs.findings()
    shard_path(pairs.folder, index).unlink()
    name, examples = _only(pairs.findings().problems)
    assert name == "not the pairs that were planned"
    assert examples == ["holds 4 of 6 pairs; run the command that made them again"]


def test_prompt_that_is_not_read_to_the_end(pairs: Pairs, tiny_model: Path) -> None:
    from contrapose.backbones.families.table import prompt_reader

    long = "circle " + "x" * 10_000
    pairs.spoil(1, prompt=long)
    found = pairs.findings(prompt_reader(tiny_model))
    assert found.problems == {}, "a long prompt may be meant"
    assert _only(found.remarks) == ("prompts longer than the text encoder reads", [long])


def test_lines_name_a_few_examples_only(pairs: Pairs) -> None:
    for index in range(5):
        pairs.spoil(index, prompt="")
    assert pairs.findings().lines()[1] == "problem: empty prompts: 5 (id-0, id-1, id-2, ...)"
