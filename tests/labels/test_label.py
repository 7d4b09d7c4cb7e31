"""Labels by scores: the better, likes and ranks, ties within the margin, and mistakes that a seed decides."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from contrapose.errors import UserError
from contrapose.labels.label import label_groups, plan_labels
from contrapose.labels.settings import Labelling
from contrapose.store.check import check_pairs
from contrapose.store.groups import GroupStore
from contrapose.store.manifest import MANIFEST
from contrapose.store.records import GroupRecord
from contrapose.store.shard_files import shard_path

WriteStore = Callable[..., Path]


@pytest.fixture
def groups_of(tmp_path: Path, write_store: WriteStore) -> Callable[..., GroupStore]:
    """A store of groups with these scores, a row a group; sample k of group i has latents of 10 i + k."""

    def made(correct: list[list[float]], roughness: list[list[float]] | None = None) -> GroupStore:
        records = []
        for number, numbers in enumerate(correct):
            scores = {"correct": tuple(numbers)}
            if roughness:
                scores["roughness"] = tuple(roughness[number])
            tie = (0.5,) * len(numbers)
            records.append(GroupRecord(f"group-{number}", f"prompt {number}", "", number, tie, scores))
        values = [[10.0 * row + place for place in range(len(correct[0]))] for row in range(len(correct))]
        latents = torch.tensor(values)[:, :, None, None, None].expand(-1, -1, 4, 2, 2).contiguous()
        folder = write_store(tmp_path / "scored", records, latents)
        manifest = {
            "num_groups": len(records), "fingerprint": "f", "draw": {"model": "m"}, "score": {"judges": []},
            "scores": {"correct": "higher", "roughness": "lower"},
        }  # fmt: skip
        (folder / MANIFEST).write_text(yaml.safe_dump(manifest))
        return GroupStore(folder)

    return made


def labelled(store: GroupStore, out: Path, settings: Labelling) -> GroupStore:
    for _ in label_groups(settings, store, plan_labels(settings, store), out):
        pass
    return GroupStore(out)


def test_a_pair_is_the_best_and_the_worst_of_its_group(groups_of: Callable[..., GroupStore], tmp_path: Path) -> None:
    store = groups_of([[0, 3, 1, -2], [5, 5, 5, 4]])
    pairs = labelled(store, tmp_path / "pairs", Labelling(("correct",)))
    assert [record.labels for record in pairs.records] == [(1.0, 0.0), (1.0, 0.0)]
    assert [record.scores["correct"] for record in pairs.records] == [(3, -2), (5, 4)]
    assert [pairs.latent("winner", row)[0, 0, 0].item() for row in (0, 1)] == [1, 10]
    assert [pairs.latent("loser", row)[0, 0, 0].item() for row in (0, 1)] == [3, 13]
    assert not check_pairs(pairs).problems
    assert pairs.settings == {"model": "m"} and pairs.manifest["earlier"] == [{"score": {"judges": []}}]


def test_scores_are_summed_by_their_weights(groups_of: Callable[..., GroupStore]) -> None:
    store = groups_of([[1, 0, 1]], roughness=[[9, 1, 2]])
    plan = plan_labels(Labelling(("correct:0.5", "roughness:-0.1")), store)
    assert plan.groups[0].places == (2, 0)
    with pytest.raises(UserError, match="less roughness is better"):
        plan_labels(Labelling(("roughness",)), store)
    with pytest.raises(UserError, match=r"record group-0: has no score looks \(it has correct, roughness\)"):
        plan_labels(Labelling(("looks",)), store)


def test_likes_are_by_the_groups_mean_or_a_threshold(groups_of: Callable[..., GroupStore], tmp_path: Path) -> None:
    store = groups_of([[0, 3, 1.5], [4, 4, 7]])
    likes = labelled(store, tmp_path / "likes", Labelling(("correct",), form="likes"))
    assert [(record.id, *record.labels) for record in likes.records] == [
        ("group-0-1", 0), ("group-0-2", 1), ("group-1-1", 0), ("group-1-2", 0), ("group-1-3", 1),
    ]  # fmt: skip
    assert likes.kind == "likes and dislikes" and likes.latent(0, 4)[0, 0, 0].item() == 12
    kept = plan_labels(Labelling(("correct",), form="likes", threshold=3.5, tie_margin=0.5, ties="half"), store)
    assert [group.record.labels[0] for group in kept.groups] == [0, 0.5, 0, 0.5, 0.5, 1]


def test_a_ranking_has_even_distances_and_shares_ranks_within_the_margin(groups_of: Callable[..., GroupStore]) -> None:
    store = groups_of([[0, 3, 2.9, 1], [1, 1, 1, 1]])
    plan = plan_labels(Labelling(("correct",), form="rankings", tie_margin=0.2), store)
    assert [group.record.labels for group in plan.groups] == [(0, 1, 1, 0.5)]
    assert [entry.name for entry in plan.left_out] == ["group-1"]


# by correct and by -roughness: the first two are on the front, the third and the fourth are dominated by one of them,
# and the last by all others
CORRECT, ROUGHNESS = [3.0, 1.0, 2.0, 1.0, 0.0], [3.0, 1.0, 3.0, 2.0, 4.0]


def rates_by_hand() -> list[float]:
    """CaPO's calibration: the mean over judges and the other samples of sigmoid(R_i - R_j)."""
    rates = []
    for i in range(5):
        wins = [1 / (1 + math.exp(CORRECT[j] - CORRECT[i])) for j in range(5) if j != i]
        wins += [1 / (1 + math.exp(2 * (ROUGHNESS[i] - ROUGHNESS[j]))) for j in range(5) if j != i]
        rates.append(sum(wins) / 8)
    return rates


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("pairs", [((1, 4), (1.0, 0.0))]),
        ("likes", [((0,), (1.0,)), ((1,), (1.0,)), ((2,), (0.0,)), ((3,), (0.0,)), ((4,), (0.0,))]),
        ("rankings", [((0, 1, 2, 3, 4), (1.0, 1.0, 0.5, 0.5, 0.0))]),
    ],
)
def test_by_pareto_the_front_wins_over_what_is_dominated(
    groups_of: Callable[..., GroupStore], tmp_path: Path, form: str, expected: list[object]
) -> None:
    """Of two fronts the best and the worst by their win rates, which stand beside the judges' scores."""
    rates = rates_by_hand()
    assert rates[1] > rates[0], "or the pair would be another one"
    settings = Labelling(("correct", "roughness:-2"), combine="pareto", form=form)  # type: ignore[arg-type]
    store = groups_of([CORRECT], [ROUGHNESS])
    plan = plan_labels(settings, store)
    assert [(group.places, group.record.labels) for group in plan.groups] == expected
    for group in plan.groups:
        assert group.record.scores["win_rate"] == pytest.approx([rates[place] for place in group.places])
    labels = labelled(store, tmp_path / "labels", settings)
    assert labels.manifest["scores"] == {"correct": "higher", "roughness": "lower", "win_rate": "higher"}
    assert labels.records == [group.record for group in plan.groups]
    with pytest.raises(UserError, match="have win_rate already"):
        plan_labels(settings, labels)


def test_by_pareto_what_judges_do_not_agree_on_is_a_tie(groups_of: Callable[..., GroupStore]) -> None:
    settings = Labelling(("correct", "roughness:-1"), combine="pareto", ties="half")
    plan = plan_labels(settings, groups_of([[1, 0], [1, 0], [1, 1]], [[2, 1], [1, 2], [5, 5]]))
    assert [group.record.labels for group in plan.groups] == [(0.5, 0.5), (1.0, 0.0), (0.5, 0.5)]


def test_ties_are_dropped_or_kept_as_halves(groups_of: Callable[..., GroupStore], tmp_path: Path) -> None:
    store = groups_of([[1, 0], [1, 0.6], [2, 2]])
    dropped = plan_labels(Labelling(("correct",), tie_margin=0.5), store)
    assert [group.record.id for group in dropped.groups] == ["group-0"]
    assert [entry.kind for entry in dropped.left_out] == ["tie", "tie"]
    kept = labelled(store, tmp_path / "kept", Labelling(("correct",), tie_margin=0.5, ties="half"))
    assert [record.labels for record in kept.records] == [(1, 0), (0.5, 0.5), (0.5, 0.5)]
    with pytest.raises(UserError, match="all of its groups are tied"):
        plan_labels(Labelling(("correct",), tie_margin=5), store)


@pytest.mark.parametrize(("form", "num_labels"), [("pairs", 1), ("likes", 2), ("rankings", 1)])
def test_the_share_of_mistakes_comes_out_and_the_seed_decides_which(
    groups_of: Callable[..., GroupStore], form: str, num_labels: int
) -> None:
    store = groups_of([[1, 0]] * 1000)

    def mistakes(share: float, seed: int = 0) -> set[int]:
        plan = plan_labels(Labelling(("correct",), form=form, mistakes=share, seed=seed), store)  # type: ignore[arg-type]
        wrong = set()
        for number, group in enumerate(plan.groups):
            # what is best and liked has the higher score
            values = group.record.scores["correct"]
            right = sorted(values, reverse=True) == [
                value for _, value in sorted(zip(group.record.labels, values, strict=True), reverse=True)
            ]
            if len(values) == 1:
                right = group.record.labels[0] == values[0]
            wrong |= set() if right else {number}
        assert len(wrong) == plan.num_mistakes
        return wrong

    wrong = mistakes(0.15)
    assert abs(len(wrong) / (1000 * num_labels) - 0.15) < 0.035
    assert mistakes(0) == set() and mistakes(0.15) == wrong
    assert mistakes(0.15, seed=1) != wrong and mistakes(0.3) > wrong


def test_other_groups_change_no_mistake(groups_of: Callable[..., GroupStore], tmp_path: Path) -> None:
    settings = Labelling(("correct",), mistakes=0.3)
    many = {group.record.id: group.places for group in plan_labels(settings, groups_of([[1, 0]] * 40)).groups}
    shutil.rmtree(tmp_path / "scored")
    few = {group.record.id: group.places for group in plan_labels(settings, groups_of([[1, 0]] * 20)).groups}
    assert few == {name: many[name] for name in few}


def test_a_run_that_was_killed_carries_on_and_other_settings_are_refused(
    groups_of: Callable[..., GroupStore], tmp_path: Path
) -> None:
    store = groups_of([[1, 0]] * 10)
    settings = Labelling(("correct",), mistakes=0.2, shard_size=3)
    labelled(store, tmp_path / "out", settings)
    whole = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    shard_path(tmp_path / "out", 2).unlink()
    labelled(store, tmp_path / "out", settings)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == whole
    with pytest.raises(UserError, match="other settings"):
        labelled(store, tmp_path / "out", Labelling(("correct",), mistakes=0.1, shard_size=3))


def test_masks_stay_with_pairs_and_not_with_likes(tmp_path: Path) -> None:
    from contrapose.store.shard_files import write_shard

    folder = tmp_path / "masked"
    records = [GroupRecord("a", "p", "", 0, (1.0, 0.0), {"correct": (0.0, 1.0)})]
    masks = torch.tensor([[[0, 255], [7, 128]]], dtype=torch.uint8)
    write_shard(folder, 0, records, torch.randn(1, 2, 4, 2, 2), masks)
    (folder / MANIFEST).write_text(yaml.safe_dump({"num_groups": 1, "format": 4, "fingerprint": "f"}))
    store = GroupStore(folder)
    pairs = labelled(store, tmp_path / "pairs", Labelling(("correct",)))
    assert torch.equal(pairs.mask(0), store.mask(0)) and torch.equal(pairs.latent("winner", 0), store.latent(1, 0))
    assert not labelled(store, tmp_path / "likes", Labelling(("correct",), form="likes")).has_mask(0)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"by": ()}, "by: no score is named"),
        ({"by": ("correct:much",)}, "neither NAME nor NAME:WEIGHT"),
        ({"by": ("correct:nan",)}, "by correct:nan"),
        ({"by": ("a b",)}, "no name of a number"),
        ({"by": ("correct", "correct:2")}, "named twice"),
        ({"by": ("correct",), "threshold": 1.0}, "threshold: is of likes"),
        ({"by": ("correct",), "form": "likes", "threshold": 1.0, "combine": "pareto"}, "threshold: is of sums"),
        ({"by": ("correct",), "tie_margin": 1.0, "combine": "pareto"}, "tie_margin: is of sums"),
        ({"by": ("correct",), "mistakes": 0.6}, "mistakes"),
        ({"by": ("correct",), "tie_margin": -1.0}, "tie_margin"),
    ],
)
def test_settings_are_refused_in_one_line(settings: dict[str, object], line: str) -> None:
    with pytest.raises(UserError, match=line):
        Labelling(**settings)  # type: ignore[arg-type]


def test_one_sample_is_no_pair(groups_of: Callable[..., GroupStore]) -> None:
    with pytest.raises(UserError, match="has one sample, and pairs compare several"):
        plan_labels(Labelling(("correct",)), groups_of([[1]]))
