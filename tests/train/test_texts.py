"""Processes that read a run's texts together; here they are threads, and real ones are in tests/journeys."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from threading import Barrier, local
from typing import Any

import pytest
from encoders import Fixed, same, shards
from safetensors import safe_open

from contrapose import processes
from contrapose.backbones.embeddings import Embeddings, Settled
from contrapose.errors import UserError
from contrapose.train import texts

PROMPTS = [f"prompt {number}" for number in range(100)]


class Together:
    """So many processes, each on a machine of this name and with a cache in this folder."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, hosts: Sequence[str], folders: Sequence[Path], **limits: Any):
        self.hosts = hosts
        self.readers = [Fixed(**limits) for _ in hosts]
        self.embeddings: list[Embeddings] = []
        for reader, folder in zip(self.readers, folders, strict=True):
            self.embeddings.append(Embeddings(reader, folder=folder))  # type: ignore[arg-type]
        self._own = local()
        self._given: list[Any] = [None] * len(hosts)
        self._barrier = Barrier(len(hosts), timeout=60)
        for module in (processes, texts):
            monkeypatch.setattr(module, "of_all", self._of_all)
        monkeypatch.setattr(texts, "rank", lambda: self._own.number)
        monkeypatch.setattr("socket.gethostname", lambda: hosts[self._own.number])

    def _of_all(self, value: Any) -> list[Any]:
        self._given[self._own.number] = value
        self._barrier.wait()
        values = list(self._given)
        self._barrier.wait()
        return values

    def settle(self) -> list[Settled | UserError]:
        def of_one(number: int) -> Settled | UserError:
            self._own.number = number
            try:
                return texts.settle_together(self.embeddings[number], lambda: PROMPTS)
            except UserError as error:
                return error

        with ThreadPoolExecutor(len(self.hosts)) as pool:
            return list(pool.map(of_one, range(len(self.hosts))))


def test_each_reads_its_share_into_one_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Embeddings(Fixed(), folder=tmp_path)(PROMPTS[:10])
    together = Together(monkeypatch, "aab", [tmp_path] * 3)
    ended = together.settle()
    assert [settled[:2] for settled in ended] == [(100, 90)] * 3
    assert ended[0].line.startswith("100 prompts: embeddings in the cache (under 0.01 GB, 90 new)")
    read_in = [reader.read_in for reader in together.readers]
    assert sorted(chain.from_iterable(read_in)) == sorted(PROMPTS[10:]), "each by one of them"
    assert min(map(len, read_in)) > 15, "none is left with most of it"
    for reader, embeddings in zip(together.readers, together.embeddings, strict=True):
        reader.encoder_bytes = 0  # released
        assert same(embeddings(PROMPTS), Fixed().read(PROMPTS))
    assert [settled[:2] for settled in together.settle()] == [(100, 0)] * 3


def test_machines_with_caches_of_their_own_read_all_once_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [tmp_path / host for host in "abaab"]
    together = Together(monkeypatch, "abaab", folders)
    assert {settled.num_prompts for settled in together.settle()} == {100}
    for host in "ab":
        rows: list[str] = []
        for path in shards(tmp_path / host):
            with safe_open(path, "pt") as shard:
                rows += [key for key in shard.metadata() if key != "unconditional"]
        assert len(rows) == len(set(rows)) == 100
    assert same(together.embeddings[4](PROMPTS), Fixed().read(PROMPTS))


def test_what_one_fails_at_ends_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    together = Together(monkeypatch, "ab", [tmp_path] * 2)
    broken = together.readers[1]
    monkeypatch.setattr(broken, "times", float("nan"))
    first, second = together.settle()
    assert "not finite" in str(second) and str(first) == f"process 1: {second}"


def test_beyond_the_limit_all_keep_their_encoders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the size of all that is missing, and not of a share."""
    together = Together(monkeypatch, "aa", [tmp_path] * 2, encoder_bytes=250_000_000)
    for embeddings in together.embeddings:
        embeddings.limit = 99 * (5 * 6 * 4 + 6 * 8) / 1e9
    assert all(settled.encoders_needed for settled in together.settle())
    assert shards(tmp_path) == []
