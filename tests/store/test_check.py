"""`check` counts, and finds each thing that would spoil a run; each test spoils one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from contrapose.store.check import Findings, TooLong, check_pairs, look_at_records
from contrapose.store.groups import GroupStore
from contrapose.store.manifest import MANIFEST
from contrapose.store.records import GroupRecord
from contrapose.store.shard_files import shard_path, write_shard

Write = Callable[..., Path]


class Pairs:
    """Records and latents to spoil before they are written."""

    def __init__(self, write: Write, folder: Path):
        self.write, self.folder = write, folder
        self.records = [GroupRecord.pair(f"id-{i}", f"a red circle {i}", f"circle {i}", i) for i in range(6)]
        self.winner, self.loser = torch.randn(2, 6, 4, 2, 2)

    def spoil(self, index: int, **changes: object) -> None:
        self.records[index] = dataclasses.replace(self.records[index], **changes)

    def findings(self, too_long: TooLong | None = None) -> Findings:
        if not self.folder.exists():
            self.write(self.folder, self.records, {"winner": self.winner, "loser": self.loser}, shard_size=2)
        counts: list[int] = []
        findings = check_pairs(GroupStore(self.folder, complete=False), too_long, counts.append)
        assert counts == sorted(set(counts)) and counts[-1] == len(GroupStore(self.folder, complete=False))
        return findings


@pytest.fixture
def pairs(write_store: Write, tmp_path: Path) -> Pairs:
    return Pairs(write_store, tmp_path / "pairs")


def test_sound_pairs(pairs: Pairs) -> None:
    pairs.spoil(1, prompt=pairs.records[0].prompt)
    found = pairs.findings(lambda prompts: [])
    assert (found.problems, found.remarks) == ({}, {})
    assert found.lines() == ["6 pairs of 5 prompts in 3 shards", "pairs: 6 decided"]


def test_masks_are_counted(pairs: Pairs) -> None:
    pairs.findings()
    masks = torch.tensor([[[0, 255], [51, 102]], [[1, 2], [3, 4]]], dtype=torch.uint8)
    write_shard(pairs.folder, 1, pairs.records[2:4], torch.randn(2, 2, 4, 2, 2), masks)
    assert pairs.findings().facts[-1] == "masks: 2 of 6 groups say where they differ"
    store = GroupStore(pairs.folder)
    assert [store.has_mask(index) for index in range(6)] == [False, False, True, True, False, False]
    torch.testing.assert_close(store.mask(2), torch.tensor([[0, 1], [0.2, 0.4]]))
    assert store.latent("loser", 3).shape == (4, 2, 2)


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
    assert _only(found.remarks) == ("groups that repeat another", [first.prompt])


def test_likes_of_one_group_repeat_nothing(write_store: Write, tmp_path: Path) -> None:
    likes = [GroupRecord(f"like-{place}", "a ring", "", 0, (1.0,)) for place in range(3)]
    folder = write_store(tmp_path / "likes", likes, torch.randn(3, 1, 4, 2, 2))
    assert look_at_records(GroupStore(folder)).remarks == {}


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
    assert name == "not the groups that were planned"
    assert examples == ["holds 4 of 6 groups; run the command that made them again"]


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
    assert pairs.findings().lines()[2] == "problem: empty prompts: 5 (id-0, id-1, id-2, ...)"


def test_labels_and_scores_are_counted(pairs: Pairs) -> None:
    pairs.spoil(1, labels=(0.5, 0.5), scores={"clip": (0.25, -3.0)})
    pairs.spoil(2, labels=(0.5, 0.5))
    pairs.spoil(3, labels=(0.75, 0.25), scores={"clip": (10.5, 2.0)})
    assert pairs.findings().lines()[1:] == [
        "pairs: 3 decided, 2 tied, 1 in shares",
        "score clip: -3 to 10.5, in 2 of 6 groups",
    ]


def _groups(folder: Path, *labels: tuple[float, ...]) -> Path:
    """A folder of one shard a group, with these labels and random latents."""
    for index, of_group in enumerate(labels):
        record = GroupRecord(f"id-{index}", f"a prompt {index}", "", index, of_group)
        write_shard(folder, index, [record], torch.randn(1, len(of_group), 4, 2, 2))
    (folder / MANIFEST).write_text(f"num_groups: {len(labels)}")
    return folder


def test_groups_of_several_sizes(tmp_path: Path) -> None:
    rankings = [(1, 0.5, 0.5, 0), (0.5, 0.5, 0.5, 0.5)]
    folder = _groups(tmp_path, (1,), (0,), (0,), (0.4,), (1, 0), *rankings, (0, 1, 1, 0))
    findings = check_pairs(GroupStore(folder))
    assert (findings.problems, findings.remarks) == ({}, {})
    assert findings.lines() == [
        "8 groups of 8 prompts in 8 shards: 4 single samples, 1 pairs, 3 groups of 4",
        "single samples: 2 disliked, 1 liked, 1 in shares",
        "pairs: 1 decided",
        "groups of 4: 1 in shares, 1 tied, 1 decided",
    ]


def test_samples_of_a_ranking_that_are_the_same(tmp_path: Path) -> None:
    latents = torch.randn(2, 4, 4, 2, 2)
    latents[1, 3] = latents[1, 1]
    latents[0, 2, 0, 0, 0] = float("nan")
    write_shard(tmp_path, 0, [GroupRecord(f"id-{i}", "a", "", i, (1, 0, 0, 0)) for i in range(2)], latents)
    (tmp_path / MANIFEST).write_text("num_groups: 2")
    assert check_pairs(GroupStore(tmp_path)).problems == {
        "latents that are not finite": ["id-0 sample 3"],
        "samples identical to another of their group": ["id-1"],
    }
