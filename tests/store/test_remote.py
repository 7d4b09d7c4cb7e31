"""Folders of groups on another machine: read in place as they would be here, fsspec's memory standing in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch

from contrapose.containers import places
from contrapose.errors import UserError
from contrapose.store import index
from contrapose.store.check import check_pairs
from contrapose.store.groups import GroupStore
from contrapose.store.mixture import Mixture
from contrapose.store.records import GroupRecord
from contrapose.store.shard_files import shard_path, write_shard

RECORDS = [GroupRecord.pair(f"id-{i}", f"a red circle {i}", f"circle {i}", i) for i in range(6)]
THERE = Path("memory://stores/p")


@pytest.fixture
def here(tmp_path: Path, write_store: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on this machine, whose copy is at `THERE`."""
    monkeypatch.setenv("CONTRAPOSE_CACHE", str(tmp_path / "cache"))
    folder = write_store(tmp_path / "p", RECORDS, torch.randn(6, 2, 4, 2, 2).half(), shard_size=2)
    write_shard(folder, 2, RECORDS[4:], torch.randn(2, 2, 4, 2, 2), torch.full((2, 2, 2), 51, dtype=torch.uint8))
    memory = fsspec.filesystem("memory")
    memory.put(str(folder), "/stores/p", recursive=True)
    yield folder
    memory.rm("/stores", recursive=True)


def test_it_is_read_as_on_this_machine(here: Path) -> None:
    near = GroupStore(here)
    far = GroupStore(THERE)
    assert far.records == near.records and far.shapes == near.shapes and str(far.folder) == "memory://stores/p"
    for row in range(6):
        for side in ("winner", "loser"):
            assert torch.equal(far.latent(side, row), near.latent(side, row))
            assert far.latent(side, row).dtype == near.latent(side, row).dtype
    assert far.has_mask(5) and torch.equal(far.mask(5), near.mask(5)) and not far.has_mask(0)
    assert all(map(torch.equal, far.latents(), near.latents()))
    assert check_pairs(far).lines() == check_pairs(near).lines()
    mixture = Mixture([Path(f"{THERE}:2"), here])
    assert len(mixture) == 12 and len(mixture.epoch(range(12), torch.Generator())) == 18


def test_its_headers_are_read_once(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = GroupStore(THERE).digest
    real = index.read_shard

    def fail(*_: Any) -> Any:
        raise AssertionError("known by the index in the cache")

    monkeypatch.setattr(index, "read_shard", fail)
    again = GroupStore(THERE)
    assert again.records == RECORDS and again.digest == digest
    monkeypatch.setattr(index, "read_shard", real)
    others = [*RECORDS[:1], GroupRecord.pair("id-1", "a blue circle", "circle", 1)]
    write_shard(here, 0, others, torch.zeros(2, 2, 4, 2, 2))
    fsspec.filesystem("memory").put(str(shard_path(here, 0)), "/stores/p/shard-00000.safetensors")
    changed = GroupStore(THERE)
    assert changed.records[1].prompt == "a blue circle" and changed.digest != digest


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: b"",
        lambda data: data[:5],
        lambda data: data[:300],
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: data[:8] + b"[" + data[9:],
        lambda data: b"\xff" * 8 + data[8:],
        lambda data: data.replace(b'"F16"', b'"F32"'),
        lambda data: data.replace(b"data_offsets", b"data_0ffsets"),
    ],
)
def test_a_broken_shard_is_told_in_one_line(here: Path, spoil: Callable[[bytes], bytes]) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/stores/p/shard-00001.safetensors", spoil(shard_path(here, 1).read_bytes()))
    with pytest.raises(UserError, match=r"^memory://stores/p/shard-00001\.safetensors: truncated or broken") as error:
        GroupStore(THERE)
    assert "\n" not in str(error.value)


def test_a_manifest_that_is_no_text_is_told_as_here(here: Path) -> None:
    fsspec.filesystem("memory").pipe("/stores/p/pairs.yaml", b"\xff\xfe\0")
    (here / "pairs.yaml").write_bytes(b"\xff\xfe\0")
    for folder in (THERE, here):
        with pytest.raises(UserError, match=r"pairs\.yaml: not readable as YAML: .*delete the folder"):
            GroupStore(folder)


def test_a_shard_that_is_gone_when_its_latent_is_wanted(here: Path) -> None:
    store = GroupStore(THERE)
    fsspec.filesystem("memory").rm("/stores/p/shard-00001.safetensors")
    with pytest.raises(UserError, match=r"memory://stores/p.*shard-00001"):
        store.latent("winner", 2)
    assert store.has_mask(5)
    store.mask(5)
    fsspec.filesystem("memory").rm("/stores/p/shard-00002.safetensors")
    for read in (lambda: store.mask(4), lambda: store.latent("winner", 5), lambda: store.digest):
        with pytest.raises(UserError, match=r"^memory://stores/p: no such file"):
            read()


def test_nothing_there_and_a_missing_package_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"memory://nowhere: no pairs\.yaml, so this is not a folder of pairs"):
        GroupStore(Path("memory://nowhere"))

    def missing(protocol: str) -> Any:
        raise ImportError("Install s3fs to access S3")

    places._file_system.cache_clear()
    monkeypatch.setattr(fsspec, "filesystem", missing)
    with pytest.raises(UserError, match=r"^s3://: cannot be read \(Install s3fs to access S3\); install what it says"):
        GroupStore(Path("s3://bucket/pairs"))
    places._file_system.cache_clear()
