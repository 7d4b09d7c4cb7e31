"""The store gives back what was put in, and names the file when it cannot."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import save_file

from contrapose import runfile
from contrapose.errors import UserError
from contrapose.store.groups import GroupStore, stack
from contrapose.store.manifest import MANIFEST
from contrapose.store.records import GroupRecord
from contrapose.store.shard_files import shard_path, write_shard
from contrapose.store.shards import begin, by_size

Write = Callable[..., Path]
RECORDS = [
    GroupRecord.pair(f"id-{i}", f"a prompt {i} 猫\u2028🎨", f"prompt {i}", 2**62 + i, 0.5 + 0.1 * i) for i in range(5)
]


@pytest.fixture
def latents() -> torch.Tensor:
    return torch.randn(5, 2, 4, 2, 2)


@pytest.fixture
def folder(tmp_path: Path, write_store: Write, latents: torch.Tensor) -> Path:
    return write_store(tmp_path, RECORDS, latents, shard_size=2)


def test_round_trip(folder: Path, latents: torch.Tensor) -> None:
    store = GroupStore(folder)
    assert (len(store), store.records, len(store.shards)) == (5, RECORDS, 3)
    for place, sample in enumerate(("winner", "loser")):
        assert torch.equal(stack(store, sample, [4, 0, 2]), latents[[4, 0, 2], place])
        assert torch.equal(stack(store, place, [4, 0, 2]), latents[[4, 0, 2], place])
    assert torch.equal(torch.cat(list(store.latents())), latents)


def test_half_precision_latents_stay_half(tmp_path: Path, write_store: Write) -> None:
    latents = torch.randn(5, 2, 4, 2, 2).half()
    assert torch.equal(GroupStore(write_store(tmp_path, RECORDS, latents)).latent("loser", 3), latents[3, 1])


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_truncated_shard(folder: Path, share: float) -> None:
    path = shard_path(folder, 1)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(UserError, match=r"shard-00001\.safetensors: truncated or broken"):
        GroupStore(folder)


def test_no_folder_of_pairs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no pairs\.yaml"):
        GroupStore(tmp_path)


def test_no_shards_yet(folder: Path) -> None:
    for path in folder.glob("shard-*"):
        path.unlink()
    with pytest.raises(UserError, match="no shards yet"):
        GroupStore(folder)


@pytest.mark.parametrize("text", ["a: [", "", "- 1", "\x00"])
def test_broken_manifest(folder: Path, text: str) -> None:
    (folder / "pairs.yaml").write_text(text)
    with pytest.raises(UserError, match=r"pairs\.yaml"):
        GroupStore(folder)


def test_a_file_that_is_being_written_is_no_shard(folder: Path) -> None:
    (folder / ".shard-00003.safetensors.partial").write_bytes(b"half")
    assert len(GroupStore(folder)) == 5


FULL = [OSError(errno.ENOSPC, "No space left on device"), SafetensorError("I/O error: No space left on device (28)")]


@pytest.mark.parametrize("error", FULL, ids=["OSError", "SafetensorError"])
def test_a_full_disk(tmp_path: Path, latents: torch.Tensor, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fill(tensors: object, path: Path, metadata: object) -> None:
        Path(path).write_bytes(b"half a shard")
        raise error

    monkeypatch.setattr("contrapose.tensors.save_file", fill)
    with pytest.raises(UserError, match=r"shard-00000\.safetensors: the disk is full"):
        write_shard(tmp_path, 0, RECORDS, latents)
    assert list(tmp_path.iterdir()) == []


def test_another_error_is_not_called_a_full_disk(
    tmp_path: Path, latents: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("contrapose.tensors.save_file", fail)
    with pytest.raises(PermissionError):
        write_shard(tmp_path, 0, RECORDS, latents)


def _group(index: int, *labels: float, **scores: tuple[float, ...]) -> GroupRecord:
    return GroupRecord(f"id-{index}", f"a prompt {index}", "", index, labels, scores)


MIXED = [
    [_group(0, 1), _group(1, 0, aesthetic=(5.5,))],
    [_group(2, 1, 0), _group(3, 0.5, 0.5, clip=(-1e9, 3))],
    [_group(4, 0.3, 1, 0, 0.3, clip=(1, 2, 3, 4), aesthetic=(0.1, 0, 0, 7)), _group(5, 0.5, 0.5, 0.5, 0.5)],
]


@pytest.fixture
def mixed(tmp_path: Path) -> tuple[Path, list[torch.Tensor]]:
    """A folder of singles, pairs and rankings of four, a shard of two each, and their latents."""
    latents = [torch.randn(len(records), records[0].num_samples, 4, 2, 2) for records in MIXED]
    for index, (records, values) in enumerate(zip(MIXED, latents, strict=True)):
        write_shard(tmp_path, index, records, values)
    (tmp_path / MANIFEST).write_text("num_groups: 6")
    return tmp_path, latents


def test_groups_of_any_n_round_trip(mixed: tuple[Path, list[torch.Tensor]]) -> None:
    folder, latents = mixed
    store = GroupStore(folder)
    assert store.records == [record for records in MIXED for record in records]
    assert [record.num_samples for record in store.records] == [1, 1, 2, 2, 4, 4]
    assert store.shapes == [(4, 2, 2)]
    assert all(map(torch.equal, store.latents(), latents))
    assert torch.equal(store.latent(3, 4), latents[2][0, 3])
    by_record = [samples for of_shard in latents for samples in of_shard]
    for order in ([0, 1, 2, 3, 4, 5], [5, 4, 2, 3, 0, 3]):
        assert all(map(torch.equal, store.groups(order), [by_record[index] for index in order]))


def test_winner_and_loser_go_by_the_labels(mixed: tuple[Path, list[torch.Tensor]]) -> None:
    folder, latents = mixed
    store = GroupStore(folder)
    single, pair, tie, ranking, all_alike = (store.records[index] for index in (1, 2, 3, 4, 5))
    places = [(record.place("winner"), record.place("loser")) for record in (pair, tie, ranking, all_alike)]
    assert places == [(0, 1), (0, 1), (1, 2), (0, 3)], "of equals the winner is the first and the loser the last"
    assert torch.equal(store.latent("loser", 4), latents[2][0, 2])
    like = replace(single, labels=(1.0,))
    assert (like.place("winner"), single.place("loser"), single.place("sample 1")) == (0, 0, 0)
    assert (like.preference, single.preference) == (1.0, 1.0), "each is all on its side"
    with pytest.raises(ValueError, match="id-1: is a dislike, a single sample, and has no winner"):
        single.place("winner")
    with pytest.raises(ValueError, match="id-1: is a like, a single sample, and has no loser"):
        like.place("loser")


def test_samples_are_ranked_by_their_labels(mixed: tuple[Path, list[torch.Tensor]]) -> None:
    """Of equals the first has the better rank."""
    records = GroupStore(mixed[0]).records
    for record in records:
        ranked = [record.place(f"rank {place + 1}") for place in range(record.num_samples)]
        assert sorted(ranked) == list(range(record.num_samples))
        assert [record.labels[place] for place in ranked] == sorted(record.labels, reverse=True)
        with pytest.raises(ValueError, match=rf"has no rank {record.num_samples + 1} among its {record.num_samples}"):
            record.place(f"rank {record.num_samples + 1}")
    assert [records[5].place(f"rank {place}") for place in (1, 2, 3, 4)] == [0, 1, 2, 3], "all are equal"


def test_only_the_asked_sample_is_read(tmp_path: Path) -> None:
    latents = torch.randn(3, 4, 4, 2, 2)
    latents[1, 2, 0, 0, 0] = float("nan")
    write_shard(tmp_path, 0, [_group(i, 1, 0.5, 0.2, 0) for i in range(3)], latents)
    (tmp_path / MANIFEST).write_text("num_groups: 3")
    store = GroupStore(tmp_path)
    assert store.latent(1, 1).isfinite().all() and store.latent(2, 0).isfinite().all()
    with pytest.raises(UserError, match="record id-1: its sample 3 holds values that are not finite"):
        store.latent(2, 1)


def test_a_file_holds_groups_of_one_size_and_one_n() -> None:
    sizes = ["wide", "square", "wide", "square", "wide", "wide"]
    records = [_group(0, 1, 0), _group(1, 1), _group(2, 1), _group(3, 0), _group(4, 1, 0), _group(5, 1, 0)]
    files = by_size(records, sizes, ["square", "wide"], 2)
    assert [(size, [record.seed for record in same]) for size, same in files] == [
        ("square", [1, 3]),
        ("wide", [0, 4]),
        ("wide", [5]),
        ("wide", [2]),
    ]


def _old_folder(folder: Path, latents: torch.Tensor) -> Path:
    """The first records as the format before wrote them, with the digest that it gave them."""
    fields = ("id", "prompt", "degraded", "seed")
    entries = [{**{name: getattr(r, name) for name in fields}, "preference": r.labels[0]} for r in RECORDS]
    sides = {"winner": latents[:, 0].contiguous(), "loser": latents[:, 1].contiguous()}
    folder.mkdir(exist_ok=True)
    save_file(sides, shard_path(folder, 0), {"records": json.dumps(entries, ensure_ascii=False)})
    manifest = {"format": 2, "fingerprint": "f", "num_pairs": 5, "pairs_digest": OLD_DIGEST, "draw": {"model": "m"}}
    (folder / MANIFEST).write_text(yaml.safe_dump(manifest))
    return folder


OLD_DIGEST = "393f0106555b4922"


def test_folders_of_the_format_before_are_read(tmp_path: Path, latents: torch.Tensor) -> None:
    store = GroupStore(_old_folder(tmp_path, latents))
    assert store.records == RECORDS and store.shapes == [(4, 2, 2)]
    assert [record.preference for record in store.records] == [0.5, 0.6, 0.7, 0.8, 0.9]
    assert torch.equal(stack(store, "loser", range(5)), latents[:, 1])
    assert torch.equal(torch.stack(list(store.groups(range(5)))), latents)


def test_folders_of_the_format_before_are_checked(tmp_path: Path, latents: torch.Tensor) -> None:
    folder = _old_folder(tmp_path, latents)
    path = folder / MANIFEST
    path.write_text(path.read_text().replace(OLD_DIGEST, "f" * 16))
    with pytest.raises(UserError, match=r"holds other groups than pairs\.yaml tells of"):
        GroupStore(folder)


def test_folders_of_the_format_before_are_not_added_to(tmp_path: Path, latents: torch.Tensor) -> None:
    folder = _old_folder(tmp_path, latents)
    with pytest.raises(UserError, match=r"pairs\.yaml: is of format 2, which .* does not add to; delete the folder"):
        begin(folder, {}, runfile.converter(), "f", RECORDS, [])
