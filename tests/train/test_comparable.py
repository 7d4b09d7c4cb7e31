"""Likes and dislikes: taken by methods that look at one side, refused by those that compare two, before any loading."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from contrapose.core.path import DiffusionPath
from contrapose.errors import UserError
from contrapose.methods import (
    AWM,
    CHATS,
    DDSPO,
    DGPO,
    NFT,
    SFT,
    CaPO,
    DataDrivenDDSPO,
    DiffusionDPO,
    DiffusionDRO,
    DiffusionLPO,
    Method,
    RankDPO,
    RealAlign,
    SelfNPO,
    SmPO,
)
from contrapose.methods.judged_groups import JudgedGroups
from contrapose.methods.own_samples import OwnSamples
from contrapose.store.mixture import Mixture
from contrapose.store.records import GroupRecord
from contrapose.train.align import align
from contrapose.train.comparable import comparable
from contrapose.train.data import Groups
from contrapose.train.settings import Run, Watching

LIKED = (True, False, True, True, False)
JUDGED = JudgedGroups(OwnSamples(3), True, "taste")
STORED = JudgedGroups(OwnSamples(4), stored=True)
NONE_HELD_OUT = Watching(holdout=0)


@pytest.fixture
def write(tmp_path: Path, write_store: Callable[..., Path]) -> Callable[[Sequence[bool]], Path]:
    """A folder of likes and dislikes, whose latents hold their number."""

    def write(liked: Sequence[bool]) -> Path:
        records = [GroupRecord(f"id-{n}", f"of {n}", "", n, (float(like),)) for n, like in enumerate(liked)]
        numbers = torch.arange(len(liked), dtype=torch.float32).view(-1, 1, 1, 1, 1).expand(-1, 1, 4, 8, 8)
        return write_store(tmp_path / "likes", records, numbers.contiguous())

    return write


def run(pairs: Path, method: Method) -> Run:
    return Run("no such model", pairs, method)


@pytest.mark.parametrize(("side", "taken"), [("winner", [0, 2, 3]), ("loser", [1, 4])])
def test_sft_trains_on_its_side_alone(
    write: Callable[..., Path], side: str, taken: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    pairs = write(LIKED)
    with caplog.at_level(logging.INFO):
        kept = comparable(Mixture(pairs), run(pairs, SFT(side=side)))
    assert [record.id for record in kept.records] == [f"id-{n}" for n in taken]
    assert [int(kept.latent(side, index).mean()) for index in range(len(kept))] == taken
    assert f"{5 - len(taken)} of 5 groups have no {side} and are left out" in caplog.text
    assert kept.digest == Mixture(pairs).digest, "what the folder holds is what the run was made from"


def test_a_side_that_nobody_is_on(write: Callable[..., Path]) -> None:
    pairs = write([False, False])
    line = "record id-0: is a dislike, a single sample, and has no winner, and no other group has one"
    with pytest.raises(UserError, match=line):
        comparable(Mixture(pairs), run(pairs, SFT()))


def test_losers_that_are_other_records_winners_need_none(write: Callable[..., Path]) -> None:
    pairs = write(LIKED)
    assert len(comparable(Mixture(pairs), run(pairs, DDSPO(losers="random-positive")))) == 3


@pytest.mark.parametrize("method", [DDSPO(), DataDrivenDDSPO(), DiffusionDPO(), RealAlign(), CHATS()], ids=repr)
def test_methods_that_compare_refuse_before_anything_is_loaded(
    write: Callable[..., Path], method: Method, tmp_path: Path
) -> None:
    """One line with what to do; no stage that a method begins with is trained first, and no folder is claimed."""
    settings = run(write(LIKED), method)
    line = (
        r"likes: record id-0: is a like, a single sample, and has no loser; [a-z-]+ compares winner and loser, so take "
        r"sft\b.*, or pairs: 'contrapose pairs import' makes them without --likes single"
    )
    with pytest.raises(UserError, match=line):
        next(align(settings, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_losers_for_held_out_groups_alone(write: Callable[..., Path], tmp_path: Path) -> None:
    settings = run(write(LIKED), DiffusionDRO())
    with pytest.raises(UserError, match=r"has no loser; diffusion-dro measures held-out .*, so set --holdout 0"):
        next(align(settings, tmp_path / "run"))
    assert len(comparable(Mixture(settings.pairs), replace(settings, watching=NONE_HELD_OUT))) == 3


def test_pairs_beside_likes(write: Callable[..., Path], write_store: Callable[..., Path], tmp_path: Path) -> None:
    latents = torch.zeros(3, 2, 4, 8, 8)
    pairs = write_store(tmp_path / "pairs", [GroupRecord.pair(f"p{n}", f"p {n}", "", n) for n in range(3)], latents)
    settings = Run("m", (pairs, write(LIKED)), SFT())
    assert [record.id for record in comparable(Mixture(settings.pairs), settings).records] == [
        "p0", "p1", "p2", "id-0", "id-2", "id-3",
    ]  # fmt: skip
    with pytest.raises(UserError, match="record id-0: is a like"):
        comparable(Mixture(settings.pairs), replace(settings, method=DiffusionDPO()))


def test_pairs_without_the_scores_that_are_gone_by(tmp_path: Path, write_store: Callable[..., Path]) -> None:
    """Told before a model is loaded; without a judge the labels are gone by."""
    scores = [{"pickscore": (21.0, 20.0)}, {}, {"taste": (1.0, 0.0)}]
    records = [GroupRecord(f"id-{n}", f"of {n}", "", n, (1.0, 0.0), of_pair) for n, of_pair in enumerate(scores)]
    folder = write_store(tmp_path / "pairs", records, torch.zeros(3, 2, 4, 8, 8))
    with pytest.raises(UserError, match="2 of 3 pairs have no scores by pickscore, which smpo goes by"):
        comparable(Mixture(folder), run(folder, SmPO(judge="pickscore")))
    assert len(comparable(Mixture(folder), run(folder, SmPO()))) == 3


# Ranked lists and scores


@pytest.fixture
def lists(tmp_path: Path, write_store: Callable[..., Path]) -> Path:
    """Lists of three, whose latents hold their place, judged but for the last one."""
    scores = {"taste": (0.2, 0.1, 0.7)}
    records = [GroupRecord(f"id-{n}", f"of {n}", "", n, (0.4, 0.0, 1.0), scores if n < 5 else {}) for n in range(6)]
    latents = torch.arange(3.0).view(1, 3, 1, 1, 1).expand(6, 3, 4, 8, 8)
    return write_store(tmp_path / "lists", records, latents.contiguous())


def test_a_list_is_taken_by_its_ranks(lists: Path) -> None:
    method = DiffusionLPO(num_samples=3)
    kept = comparable(Mixture(lists), run(lists, method))
    path = DiffusionPath(torch.linspace(0.999, 0.005, 1000))
    groups = Groups(kept, method.composition(), lambda texts: {"text": torch.zeros(len(texts), 1)}, path, 0, 0)
    group = groups.training_batch(range(4), torch.device("cpu"))
    assert list(group.samples) == ["rank 1", "rank 2", "rank 3"]
    for sample, place, label in zip(group.samples.values(), (2.0, 0.0, 1.0), (1.0, 0.4, 0.0), strict=True):
        assert sample.latent.unique().tolist() == [place] and sample.label.tolist() == pytest.approx([label] * 4)


def test_a_list_that_is_too_short(lists: Path) -> None:
    line = "id-0: has no rank 4 among its 3 samples; diffusion-lpo ranks 4 images of each prompt, so set --num-samples"
    with pytest.raises(UserError, match=line):
        comparable(Mixture(lists), run(lists, DiffusionLPO()))


@pytest.mark.parametrize("judge", ["taste", None])
def test_a_group_is_its_first_samples_ranked_by_the_judge(
    tmp_path: Path, write_store: Callable[..., Path], judge: str | None
) -> None:
    """Not the best of all, as of a ranked list; nobody has to have said which is better, if a judge has."""
    labels = (0.5,) * 4 if judge else (0.4, 0.0, 1.0, 0.3)
    scores = {"taste": (20.0, 10.0, 15.0, 90.0), "other": (1.0, 2.0, 3.0, 4.0)}
    records = [GroupRecord(f"id-{n}", f"of {n}", "", n, labels, scores) for n in range(5)]
    latents = torch.arange(4.0).view(1, 4, 1, 1, 1).expand(5, 4, 4, 8, 8)
    folder = write_store(tmp_path / "groups", records, latents.contiguous())
    method = DGPO(groups=JudgedGroups(OwnSamples(3), True, judge))
    kept = comparable(Mixture(folder), run(folder, method))
    path = DiffusionPath(torch.linspace(0.999, 0.005, 1000))
    groups = Groups(kept, method.composition(), lambda texts: {"text": torch.zeros(len(texts), 1)}, path, 0, 0)
    group = groups.training_batch(range(4), torch.device("cpu"))
    expected = [(0.0, 1.0, 20.0), (2.0, 0.5, 15.0), (1.0, 0.0, 10.0)]
    if judge is None:
        expected = [(2.0, 1.0, 15.0), (0.0, 0.4, 20.0), (1.0, 0.0, 10.0)]
    assert list(group.samples) == ["rank 1", "rank 2", "rank 3"]
    for sample, (place, label, score) in zip(group.samples.values(), expected, strict=True):
        assert sample.latent.unique().tolist() == [place]
        assert sample.label.tolist() == pytest.approx([label] * 4)
        assert sample.scores["taste"].tolist() == [score] * 4 and set(sample.scores) == {"taste", "other"}


def test_groups_that_cannot_be_compared(lists: Path, tmp_path: Path, write_store: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match="has no rank 4 among its 3 samples; nft compares 4 images of each prompt, so"):
        comparable(Mixture(lists), run(lists, NFT(groups=STORED)))
    records = [GroupRecord.undecided(f"id-{n}", f"of {n}", n, 4) for n in range(3)]
    undecided = write_store(tmp_path / "undecided", records, torch.zeros(3, 4, 4, 8, 8))
    with pytest.raises(
        UserError, match="nobody has said yet which of the samples are better; 'contrapose pairs score'"
    ):
        comparable(Mixture(undecided), run(undecided, AWM(groups=STORED)))


def test_labels_are_missed_by_methods_that_go_by_them(tmp_path: Path, write_store: Callable[..., Path]) -> None:
    """Not where a judge's scores take their place, or any image will do."""
    scores = {"taste": (0.0, 2.0), "nothing": (1.0, 1.0)}
    records = [replace(GroupRecord.undecided(f"id-{n}", f"of {n}", n, 2), scores=scores) for n in range(3)]
    undecided = write_store(tmp_path / "undecided", records, torch.zeros(3, 2, 4, 8, 8))
    of_two = JudgedGroups(OwnSamples(2), True, "taste")
    free: list[Method] = [SelfNPO(), DDSPO(losers="random-positive"), SmPO(judge="taste"), CaPO(judge="taste")]
    for method in (*free, RankDPO(judge="taste", num_samples=2), NFT(groups=of_two)):
        assert len(comparable(Mixture(undecided), run(undecided, method))) == 3
    unscored = replace(of_two, judge="nothing")
    for method in (SFT(), DiffusionDPO(), SmPO(), CaPO(judge="nothing"), NFT(groups=unscored)):
        with pytest.raises(UserError, match="nobody has said yet"):
            comparable(Mixture(undecided), run(undecided, method))
    with pytest.raises(UserError, match="no degraded prompts"):
        comparable(Mixture(undecided), run(undecided, DDSPO()))


def test_no_record_is_read_where_nothing_is_asked_of_all(lists: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = Mixture(lists)
    monkeypatch.setattr(type(pairs.records), "__iter__", lambda records: pytest.fail("of millions this takes seconds"))
    assert len(comparable(pairs, run(lists, SelfNPO()))) == len(pairs)


@pytest.mark.parametrize(
    "method",
    [
        RankDPO(judge="taste", num_samples=3),
        CaPO(judge="taste"),
        DGPO(groups=JUDGED),
    ],
    ids=repr,
)
def test_scores_that_are_needed_are_missed_before_anything_is_loaded(lists: Path, method: Method) -> None:
    with pytest.raises(UserError, match=r"1 of 6 pairs have no scores by taste, which [a-z]+ goes by"):
        comparable(Mixture(lists), run(lists, method))
    if isinstance(method, DGPO):
        unjudged: Method = replace(method, groups=replace(method.groups, judge=None))
    else:
        unjudged = replace(method, judge=None)
    assert len(comparable(Mixture(lists), run(lists, unjudged))) == 6
