"""What the n-th training position sees depends on (seed, n) alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from contrapose.core.group import Composition, Group, Pick
from contrapose.core.path import DiffusionPath
from contrapose.errors import UserError
from contrapose.methods import DDSPO, SFT, DiffusionDPO
from contrapose.store.mixture import Mixture
from contrapose.store.records import GroupRecord
from contrapose.train.comparable import comparable
from contrapose.train.data import Groups
from contrapose.train.settings import Run

Write = Callable[..., Path]
CPU = torch.device("cpu")
PATH = DiffusionPath(torch.linspace(0.999, 0.005, 1000))
NUM = 20


class Numbered:
    """Stands for the text encoder: each prompt ends in a number, and that is its embedding."""

    def __call__(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        return {"text": torch.tensor([[float(p.split()[-1])] for p in prompts])}


@pytest.fixture
def store(tmp_path: Path, write_store: Write) -> Mixture:
    """Winner i holds i everywhere, loser i 100 + i, prompt i embeds as i, degraded prompt i as 100 + i; 3 is a tie."""
    return _store(tmp_path, write_store, NUM)


def _store(folder: Path, write_store: Write, num: int) -> Mixture:
    records = [
        GroupRecord.pair(f"id-{i}", f"prompt {i}", f"degraded {100 + i}", i, 0.5 if i == 3 else 1.0) for i in range(num)
    ]
    numbers = torch.arange(num, dtype=torch.float32).view(-1, 1, 1, 1).expand(-1, 4, 8, 8)
    return Mixture(write_store(folder, records, {"winner": numbers, "loser": 100 + numbers}, shard_size=7))


def _groups(
    store: Mixture, composition: Composition | None = None, seed: int = 0, holdout: int = 4, spread: bool = False
) -> Groups:
    composition = composition or DDSPO().composition()
    return Groups(store, composition, Numbered(), PATH, seed, holdout, spread_times=spread)


def _batch(groups: Groups, positions: Sequence[int]) -> Group:
    return groups.training_batch(positions, CPU)


def _tensors(group: Group) -> list[Tensor]:
    slots = [group.prompts[slot]["text"] for slot in sorted(group.prompts)]
    samples = [value for s in group.samples.values() for value in (s.latent, s.noise, s.label)]
    return [group.t, *samples, *slots]


def _held(group: Group, sample: str) -> list[int]:
    return _numbers(group.samples[sample].latent)


def _numbers(values: Tensor) -> list[int]:
    return [int(row.flatten()[0]) for row in values]


@pytest.mark.parametrize("losers", ["paired", "not-paired", "random-positive"])
@pytest.mark.parametrize("size", [1, 3, 8])
@pytest.mark.parametrize("spread", [False, True])
def test_a_position_does_not_depend_on_its_batch(store: Mixture, losers: str, size: int, spread: bool) -> None:
    composition = DDSPO(losers=losers).composition()
    positions = range(5, 29)  # across an epoch's end
    whole = _tensors(_batch(_groups(store, composition, spread=spread), positions))
    fresh = _groups(store, composition, spread=spread)  # as after a resume: nothing carried over
    parts = [_tensors(_batch(fresh, positions[i : i + size])) for i in range(0, len(positions), size)]
    for index, value in enumerate(whole):
        assert torch.equal(value, torch.cat([part[index] for part in parts]))


def test_spread_times_fill_every_stretch_of_positions_evenly(store: Mixture) -> None:
    alone, spread, of_another = (
        _groups(store, seed=seed, spread=even) for seed, even in ((0, False), (0, True), (1, True))
    )
    # three sequences of 50 positions: of the ten tenths of the way, each has about five of its times
    for start in (0, 64, 1000):
        positions = range(start, start + 50)
        by_tenth = torch.bincount(_batch(spread, positions).t // 100, minlength=10)
        assert by_tenth.min() >= 4 and by_tenth.max() <= 6
        independent = torch.bincount(_batch(alone, positions).t // 100, minlength=10)
        assert independent.min() < 4 and independent.max() > 6
    ours, theirs = _batch(spread, range(8)), _batch(of_another, range(8))
    assert not torch.equal(ours.t, theirs.t)
    # all else of a position is as it is without
    same = _batch(alone, range(8))
    assert torch.equal(ours.samples["winner"].noise, same.samples["winner"].noise)
    assert _held(ours, "loser") == _held(same, "loser")


def test_each_epoch_sees_every_training_pair_once(store: Mixture) -> None:
    groups = _groups(store)
    size = len(groups.training)
    epochs = [_held(_batch(groups, range(n * size, (n + 1) * size)), "winner") for n in range(2)]
    training = groups.training.tolist()
    assert sorted(epochs[0]) == sorted(epochs[1]) == training
    assert epochs[0] != epochs[1] != training


def test_another_seed_is_another_stream(store: Mixture) -> None:
    ours, theirs = (_batch(_groups(store, seed=seed, holdout=0), range(8)) for seed in (0, 1))
    assert not torch.equal(ours.samples["winner"].noise, theirs.samples["winner"].noise)
    assert _held(ours, "winner") != _held(theirs, "winner")


def test_holdout_is_disjoint(store: Mixture) -> None:
    groups = _groups(store)
    assert len(groups.held_out) == 4
    assert set(groups.held_out).isdisjoint(groups.training)
    assert sorted([*groups.held_out, *groups.training]) == list(range(NUM))
    seen = {n for p in range(80) for n in _held(_batch(groups, [p]), "winner")}
    assert seen == set(groups.training)


@pytest.mark.parametrize(("asked", "got"), [(0, 0), (3, 3), (64, 4)])
def test_holdout_is_at_most_a_fifth(store: Mixture, asked: int, got: int) -> None:
    assert len(_groups(store, holdout=asked).held_out) == got


@pytest.mark.parametrize("losers", ["paired", "not-paired", "random-positive"])
def test_held_out_batches_are_always_the_same(store: Mixture, losers: str) -> None:
    groups = _groups(store, DDSPO(losers=losers).composition())
    first = _tensors(groups.held_out_batch(0.5, CPU, groups.held_out[:4]))
    _batch(groups, range(3))
    parts = [_tensors(groups.held_out_batch(0.5, CPU, groups.held_out[i : i + 1])) for i in range(4)]
    for index, value in enumerate(first):
        assert torch.equal(value, torch.cat([part[index] for part in parts]))
    assert groups.held_out_batch(0.5, CPU, groups.held_out[:4]).t.tolist() == [500] * 4


def test_winner_and_loser_are_of_one_record(store: Mixture) -> None:
    batch = _batch(_groups(store), range(16))
    own = _held(batch, "winner")
    assert _held(batch, "loser") == [100 + n for n in own]
    assert _numbers(batch.prompts["prompt"]["text"]) == own
    assert _numbers(batch.prompts["degraded"]["text"]) == [100 + n for n in own]


def test_not_paired_takes_another_records_winner(store: Mixture) -> None:
    groups = _groups(store, DDSPO(losers="not-paired").composition())
    batch = _batch(groups, range(320))
    own, other = _held(batch, "winner"), _held(batch, "loser")
    assert all(a != b for a, b in zip(own, other, strict=True)), "a partner is never the record itself"
    assert set(other) == set(groups.training), "any training pair, and none held out"
    assert _numbers(batch.prompts["degraded"]["text"]) == [100 + n for n in own]


def test_random_positive_takes_another_records_winner_with_its_own_prompt(store: Mixture) -> None:
    groups = _groups(store, DDSPO(losers="random-positive").composition())
    batch = _batch(groups, range(320))
    own, other = _held(batch, "winner"), _held(batch, "loser")
    assert _numbers(batch.prompts["prompt"]["text"]) == own
    assert _numbers(batch.prompts["degraded"]["text"]) == other, "one partner a group: its image and its prompt"
    assert all(a != b for a, b in zip(own, other, strict=True))
    assert set(other) == set(groups.training), "any training pair, and none held out"


def test_sft_on_losers(store: Mixture) -> None:
    batch = _batch(_groups(store, SFT(side="loser").composition()), range(8))
    assert set(batch.prompts) == {"prompt"} and set(batch.samples) == {"loser"}
    assert _held(batch, "loser") == [100 + n for n in _numbers(batch.prompts["prompt"]["text"])]


def test_ties_stay_ties(store: Mixture) -> None:
    """A field's mistake: ties kept as wins."""
    samples = _batch(_groups(store, holdout=0), range(NUM)).samples
    labels = torch.stack([samples["winner"].label, samples["loser"].label], 1).tolist()
    for number, of_pair in zip(_numbers(samples["winner"].latent), labels, strict=True):
        assert of_pair == ([0.5, 0.5] if number == 3 else [1.0, 0.0])


def test_noise_is_normal_and_times_cover_the_path(store: Mixture) -> None:
    batch = _batch(_groups(store), range(400))
    noise = batch.samples["winner"].noise
    assert abs((noise.abs() > 1).float().mean() - 0.3173) < 0.01
    assert noise.flatten(1)[:, 0].unique().numel() == 400
    assert noise is batch.samples["loser"].noise
    assert batch.t.min() < 20
    assert batch.t.max() > 979
    assert abs(batch.t.float().mean() - 499.5) < 45


@pytest.mark.parametrize("losers", ["not-paired", "random-positive"])
def test_one_pair_has_no_partner(tmp_path: Path, write_store: Write, losers: str) -> None:
    with pytest.raises(UserError, match="training pairs of at least two prompts"):
        _groups(_store(tmp_path, write_store, 1), DDSPO(losers=losers).composition())


# Several sizes in one store


@pytest.fixture
def mixed(tmp_path: Path, write_store: Write) -> Mixture:
    """Records 0 to 9 with latents of 8x8, 10 to 19 with latents of 4x16, written one size a shard."""
    from contrapose.store.shard_files import write_shard

    folder = tmp_path / "mixed"
    records = [GroupRecord.pair(f"id-{i}", f"prompt {i}", f"degraded {100 + i}", i) for i in range(NUM)]
    numbers = torch.arange(NUM, dtype=torch.float32).view(-1, 1, 1, 1)
    square = numbers[:10, None].expand(-1, 2, 4, 8, 8)
    write_store(folder, records, dict.fromkeys(("winner", "loser"), numbers.expand(-1, 4, 4, 16)), shard_size=10)
    write_shard(folder, 0, records[:10], square)
    return Mixture(folder)


def test_micro_batches_are_of_one_size_and_leave_nothing_out(mixed: Mixture) -> None:
    groups = _groups(mixed)
    batches = groups.micro_batches(range(16), 3)
    assert sorted(position for batch in batches for position in batch) == list(range(16))
    assert all(len(batch) <= 3 for batch in batches)
    shapes = {_batch(groups, batch).samples["winner"].latent.shape[1:] for batch in batches}
    assert shapes == {(4, 8, 8), (4, 4, 16)}
    held_out = groups.held_out_batches(3)
    assert sorted(record for batch in held_out for record in batch) == sorted(groups.held_out)


def test_a_position_is_the_same_whatever_the_micro_batch(mixed: Mixture) -> None:
    groups = _groups(mixed)
    alone = {position: _tensors(_batch(groups, [position])) for position in range(8)}
    for batch in groups.micro_batches(range(8), 4):
        together = _tensors(_batch(groups, batch))
        for row, position in enumerate(batch):
            assert all(
                torch.equal(ours[row], theirs[0]) for ours, theirs in zip(together, alone[position], strict=True)
            )


def test_another_records_winner_is_of_the_same_size(mixed: Mixture) -> None:
    groups = _groups(mixed, DDSPO(losers="not-paired").composition())
    for batch in groups.micro_batches(range(32), 8):
        group = _batch(groups, batch)
        sides = zip(_held(group, "winner"), _held(group, "loser"), strict=True)
        assert all(a != b and (a < 10) == (b < 10) for a, b in sides)


def test_pairs_without_degraded_prompts_are_refused_where_they_are_needed(tmp_path: Path, write_store: Write) -> None:
    records = [GroupRecord.pair(f"id-{i}", f"prompt {i}", "", i) for i in range(4)]
    latents = {side: torch.zeros(4, 4, 8, 8) for side in ("winner", "loser")}
    store = Mixture(write_store(tmp_path, records, latents))
    with pytest.raises(UserError, match="no degraded prompts"):
        comparable(store, Run("a model", tmp_path, DDSPO()))
    assert len(comparable(store, Run("a model", tmp_path, SFT()))) == 4


def _rankings(folder: Path, write_store: Write, num: int) -> Mixture:
    """Groups of three whose samples hold 0, 100 and 200 more than the group's number; the second is best."""
    scores = {"taste": (5.0, 9.0, 1.0)}
    records = [GroupRecord(f"id-{i}", f"prompt {i}", "", i, (0.5, 1.0, 0.25), scores) for i in range(num)]
    numbers = torch.arange(num, dtype=torch.float32).view(-1, 1, 1, 1, 1).expand(-1, 3, 4, 8, 8)
    latents = numbers + torch.tensor([0.0, 100.0, 200.0]).view(1, 3, 1, 1, 1)
    return Mixture(write_store(folder, records, latents))


def test_of_a_ranking_best_and_worst_are_compared(tmp_path: Path, write_store: Write) -> None:
    groups = _groups(_rankings(tmp_path, write_store, 8), DiffusionDPO().composition(), holdout=0)
    group = _batch(groups, range(8))
    winners = _held(group, "winner")
    assert sorted(winners) == [100 + number for number in range(8)]
    assert _held(group, "loser") == [number + 100 for number in winners]
    assert group.samples["winner"].label.tolist() == [1.0] * 8 and group.samples["loser"].label.tolist() == [0.0] * 8
    assert group.samples["winner"].scores["taste"].tolist() == [9.0] * 8
    assert group.samples["loser"].scores["taste"].tolist() == [1.0] * 8


def test_all_samples_of_a_group_have_their_labels_and_scores(tmp_path: Path, write_store: Write) -> None:
    names = [f"sample {number}" for number in (1, 2, 3)]
    composition = Composition(samples={name: Pick("own", name) for name in names})
    group = _batch(_groups(_rankings(tmp_path, write_store, 8), composition, holdout=0), range(8))
    assert [group.samples[name].label.tolist() for name in names] == [[0.5] * 8, [1.0] * 8, [0.25] * 8]
    assert [group.samples[name].scores["taste"].tolist() for name in names] == [[5.0] * 8, [9.0] * 8, [1.0] * 8]
    first = _held(group, "sample 1")
    assert _held(group, "sample 3") == [number + 200 for number in first]


def test_a_size_that_is_held_out_whole_is_told(tmp_path: Path, write_store: Write) -> None:
    """Of its training pairs there is none that a held-out one could be paired up with."""
    from contrapose.store.shard_files import write_shard

    folder = tmp_path / "rare"
    records = [GroupRecord.pair(f"id-{i}", f"prompt {i}", f"degraded {100 + i}", i) for i in range(NUM)]
    numbers = torch.arange(NUM, dtype=torch.float32).view(-1, 1, 1, 1)
    write_store(folder, records, dict.fromkeys(("winner", "loser"), numbers.expand(-1, 4, 8, 8)), shard_size=1)
    write_shard(folder, 0, records[:1], numbers[:1, None].expand(-1, 2, 4, 4, 16))
    rare = Mixture(folder)
    composition = DDSPO(losers="not-paired").composition()
    seed = next(seed for seed in range(100) if 0 in _groups(rare, seed=seed).held_out)
    with pytest.raises(UserError, match="training pairs of at least two prompts"):
        _groups(rare, composition, seed=seed)
