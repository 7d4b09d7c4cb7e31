"""The pair store gives back what was put in, and names the file when it cannot."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from contrapose.errors import UserError
from contrapose.store.pairs import PairRecord, PairStore, shard_path, stack, write_shard

Write = Callable[..., Path]
RECORDS = [PairRecord(f"id-{i}", f"a prompt {i} 猫\u2028🎨", f"prompt {i}", 2**62 + i, 0.5 + 0.1 * i) for i in range(5)]


@pytest.fixture
def latents() -> dict[str, torch.Tensor]:
    return {"winner": torch.randn(5, 4, 2, 2), "loser": torch.randn(5, 4, 2, 2)}


@pytest.fixture
def folder(tmp_path: Path, write_store: Write, latents: dict[str, torch.Tensor]) -> Path:
    return write_store(tmp_path, RECORDS, latents, shard_size=2)


def test_round_trip(folder: Path, latents: dict[str, torch.Tensor]) -> None:
    store = PairStore(folder)
    assert (len(store), store.records, len(store.shards)) == (5, RECORDS, 3)
    for field, values in latents.items():
        assert torch.equal(stack(store, field, [4, 0, 2]), values[[4, 0, 2]])
    seen = {(index, field): latent for index, field, latent in store.latents()}
    assert len(seen) == 10
    assert all(torch.equal(latent, latents[field][index]) for (index, field), latent in seen.items())


def test_half_precision_latents_stay_half(tmp_path: Path, write_store: Write) -> None:
    latents = {name: torch.randn(5, 4, 2, 2).half() for name in ("winner", "loser")}
    assert torch.equal(PairStore(write_store(tmp_path, RECORDS, latents)).latent("loser", 3), latents["loser"][3])


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_truncated_shard(folder: Path, share: float) -> None:
    path = shard_path(folder, 1)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(UserError, match=r"shard-00001\.safetensors: truncated or broken"):
        PairStore(folder)


def test_no_folder_of_pairs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no pairs\.yaml"):
        PairStore(tmp_path)


def test_no_shards_yet(folder: Path) -> None:
    for path in folder.glob("shard-*"):
        path.unlink()
    with pytest.raises(UserError, match="no shards yet"):
        PairStore(folder)


@pytest.mark.parametrize("text", ["a: [", "", "- 1", "\x00"])
def test_broken_manifest(folder: Path, text: str) -> None:
    (folder / "pairs.yaml").write_text(text)
    with pytest.raises(UserError, match=r"pairs\.yaml"):
        PairStore(folder)


def test_a_file_that_is_being_written_is_no_shard(folder: Path) -> None:
    (folder / ".shard-00003.safetensors.partial").write_bytes(b"half")
    assert len(PairStore(folder)) == 5


FULL = [OSError(errno.ENOSPC, "No space left on device"), SafetensorError("I/O error: No space left on device (28)")]


@pytest.mark.parametrize("error", FULL, ids=["OSError", "SafetensorError"])
def test_a_full_disk(
    tmp_path: Path, latents: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fill(tensors: object, path: Path, metadata: object) -> None:
        Path(path).write_bytes(b"half a shard")
        raise error

    monkeypatch.setattr("contrapose.tensors.save_file", fill)
    with pytest.raises(UserError, match=r"shard-00000\.safetensors: the disk is full"):
        write_shard(tmp_path, 0, RECORDS, latents)
    assert list(tmp_path.iterdir()) == []


def test_another_error_is_not_called_a_full_disk(
    tmp_path: Path, latents: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("contrapose.tensors.save_file", fail)
    with pytest.raises(PermissionError):
        write_shard(tmp_path, 0, RECORDS, latents)
