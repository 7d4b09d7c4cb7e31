"""What the cache has on disk is what was written, of the encoders at hand, and is listed when it has changed."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from encoders import Fixed, same, shards
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from contrapose.backbones import embedding_rows
from contrapose.backbones.embeddings import Embeddings
from contrapose.errors import UserError


def _spoil(path: Path, change: str) -> None:
    """Change a shard that stays a safetensors file, and says of its rows what it said before."""
    with safe_open(path, "pt") as shard:
        notes = shard.metadata()
    tensors = load_file(path)
    name = next(name for name in tensors if name.endswith(".text"))
    changed = {
        "a value": tensors[name] + 1,
        "not a number": torch.full_like(tensors[name], math.nan),
        "another width": tensors[name][..., :-1].contiguous(),
        "more rows": tensors[name].repeat(2, 1, 1),
        "another kind": tensors[name].double(),
        "flat": tensors[name].flatten(),
    }
    if change == "a name":
        tensors[name.replace(".text", ".other")] = tensors.pop(name)
    elif change == "a tensor less":
        tensors.pop(name)
    elif change == "no checksums":
        notes = None
    else:
        tensors[name] = changed[change]
    save_file(tensors, path, notes)


@pytest.mark.parametrize(
    "change",
    [
        "a value", "not a number", "another width", "more rows", "another kind", "flat", "a name", "a tensor less",
        "no checksums",
    ],
)  # fmt: skip
def test_a_row_that_is_not_what_was_written_is_absent(tmp_path: Path, change: str) -> None:
    backbone = Fixed()
    Embeddings(backbone, folder=tmp_path)(["a"])
    (shard,) = shards(tmp_path)
    _spoil(shard, change)
    for _ in range(2):
        assert same(Embeddings(backbone, folder=tmp_path)(["a", "b"]), backbone.read(["a", "b"]))
    assert backbone.read_in == ["a", "a", "b"], "computed again, once"


def test_a_row_that_has_changed_is_read_anew_by_the_same_command(tmp_path: Path) -> None:
    """Training finds it when the encoders have left memory, and asks for another start."""
    backbone = Fixed()
    Embeddings(backbone, folder=tmp_path).settle(["a", "b"])
    for shard in shards(tmp_path):
        _spoil(shard, "a value")
    cached = Embeddings(backbone, folder=tmp_path)
    cached.settle(["a", "b"])
    backbone.encoder_bytes = 0  # released
    with pytest.raises(UserError, match="run the same command again"):
        cached(["a", "b"])
    backbone.encoder_bytes = 1
    again = Embeddings(backbone, folder=tmp_path)
    assert again.settle(["a", "b"]).num_new == 2
    backbone.encoder_bytes = 0
    assert same(again(["a", "b"]), backbone.read(["a", "b"]))


def test_embeddings_that_are_no_numbers_are_not_kept(tmp_path: Path) -> None:
    class Overflowing(Fixed):
        def rows(self, prompt: str, rows: int, width: int = 6) -> torch.Tensor:
            return super().rows(prompt, rows, width) / (0.0 if prompt == "too long" else 1.0)

    for ask in (Embeddings.__call__, Embeddings.settle):
        with pytest.raises(UserError, match=r"prompt 'too long': .*not finite; use another"):
            ask(Embeddings(Overflowing(), folder=tmp_path), ["a", "too long"])
    assert shards(tmp_path) == []


def test_encoders_that_change_have_rows_of_their_own(tmp_path: Path) -> None:
    """As when adapters are loaded on them, while the cache is open, where it writes and where it has no room."""
    for limit in (50.0, 0.0):
        backbone = Fixed("plain")
        cached = Embeddings(backbone, limit, tmp_path / str(limit))
        plain = cached(["a", None])
        backbone.settings, backbone.times = "changed", 2
        changed = cached(["a", None])
        assert same(changed, {"text": 2 * plain["text"], "pooled": 2 * plain["pooled"]})
        backbone.settings, backbone.times = "plain", 1
        assert same(cached(["a", None]), plain)


def test_many_batches_list_the_folder_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else each takes longer than the one before; what other processes write is seen all the same."""
    Embeddings(Fixed(), folder=tmp_path)(["there before"])
    (home,) = tmp_path.iterdir()
    listed, opened = [], []
    glob, safe_open = Path.glob, embedding_rows.safe_open
    monkeypatch.setattr(Path, "glob", lambda path, *rest: listed.append(path) or glob(path, *rest))
    monkeypatch.setattr(embedding_rows, "safe_open", lambda path, *rest: opened.append(path) or safe_open(path, *rest))
    backbone = Fixed()
    cached = Embeddings(backbone, folder=tmp_path)
    for batch in range(100):
        cached([f"{batch} {number}" for number in range(4)])
    assert listed == [home]
    assert len(opened) == 1 + 100, "each shard once, for its header"
    os.utime(home, ns=(1, 1))  # any other time: the clock of some disks is slow
    other = Embeddings(Fixed(), folder=tmp_path)
    other(["of another process"])
    listed.clear()
    cached(["of another process"])
    assert listed == [home]
    assert "of another process" not in backbone.read_in


def _opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the shards that are opened from now on, as they are."""
    names: list[str] = []
    real = embedding_rows.safe_open

    def noting(path: Path, framework: str) -> Any:
        names.append(path.name)
        return real(path, framework)

    monkeypatch.setattr(embedding_rows, "safe_open", noting)
    return names


def test_many_shards_are_known_by_an_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding_rows, "_MANY", 2)
    monkeypatch.setattr(embedding_rows, "_RECENT", 100)
    prompts = [f"prompt {i}" for i in range(300)]
    first = Embeddings(Fixed(), folder=tmp_path).settle(prompts)
    names = _opened(monkeypatch)
    backbone = Fixed()
    again = Embeddings(backbone, folder=tmp_path)
    settled = again.settle(reversed(prompts))
    assert (settled.num_prompts, settled.num_new) == (300, 0) and settled.gigabytes == pytest.approx(first.gigabytes)
    assert set(names) <= {embedding_rows.INDEX, *names[-1:]}, "no shard, but the one without a prompt"
    assert same(again(prompts[::7]), Fixed().read(prompts[::7])) and not backbone.asked
    # what came since is opened, and what is gone is computed again
    monkeypatch.setattr(embedding_rows, "_MANY", 50)
    Embeddings(Fixed(), folder=tmp_path).settle(["new"])
    gone = next(path for path in shards(tmp_path) if path.name != names[-1])
    gone.unlink()
    monkeypatch.setattr(embedding_rows, "_MANY", 2)
    late = Embeddings(Fixed(), folder=tmp_path).settle([*prompts, "new"])
    assert 0 < late.num_new <= 64


@pytest.mark.parametrize("spoil", [lambda data: b"", lambda data: data[:-9], lambda data: data[:-1] + b"\x01"])
def test_an_index_that_is_broken_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[bytes], bytes]
) -> None:
    monkeypatch.setattr(embedding_rows, "_MANY", 2)
    prompts = [f"prompt {i}" for i in range(200)]
    Embeddings(Fixed(), folder=tmp_path).settle(prompts)
    (index,) = tmp_path.glob(f"*/{embedding_rows.INDEX}")
    index.write_bytes(spoil(index.read_bytes()))
    backbone = Fixed()
    cached = Embeddings(backbone, folder=tmp_path)
    assert cached.settle(prompts).num_new == 0 and same(cached(prompts), Fixed().read(prompts)) and not backbone.asked
