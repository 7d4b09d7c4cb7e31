"""What several processes fail at is told once, whoever meets it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from torch.distributed import TCPStore

from contrapose.cli.main import main
from contrapose.errors import UserError
from contrapose.processes import told_once

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def meeting(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Three processes that torchrun has started, with its store."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setattr("contrapose.processes._FIRST_S", 0.2)
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(store.port))
    yield


@pytest.mark.usefixtures("meeting")
@pytest.mark.parametrize(
    ("met", "told"),
    [
        ([("0", "bad"), ("1", "bad"), ("2", "bad")], ["bad"]),
        ([("2", "bad"), ("0", "bad"), ("1", "bad")], ["process 2: bad"]),  # the first comes too late
        ([("1", "bad")], ["process 1: bad"]),
        ([("1", "bad"), ("2", "worse")], ["process 1: bad", "process 2: worse"]),
        # what one told the others of
        ([("0", "process 1: bad"), ("1", "bad"), ("2", "process 1: bad")], ["process 1: bad"]),
    ],
)
def test_what_a_process_fails_at_is_told_once_whoever_meets_it(
    monkeypatch, capsys: Capture, met: list[tuple[str, str]], told: list[str]
) -> None:
    """By the store that torchrun has for all of them."""

    def fail(arguments: list[str]) -> None:
        raise UserError(arguments[0])

    monkeypatch.setattr("contrapose.cli.main.run", fail)
    for rank, message in met:
        monkeypatch.setenv("RANK", rank)
        assert main([message]) == 2
    assert capsys.readouterr().err.splitlines() == [f"contrapose: {line}" for line in told]


@pytest.mark.usefixtures("meeting")
def test_others_wait_until_the_first_one_has_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """They would end, and torchrun then ends it, before it had."""
    naps: list[float] = []
    monkeypatch.setattr("contrapose.processes.time.sleep", naps.append)
    monkeypatch.setenv("RANK", "0")
    with told_once("bad") as first:
        monkeypatch.setenv("RANK", "1")
        with told_once("bad", "process 1: bad") as second:
            waited = len(naps)
    with told_once("bad", "process 1: bad") as third:
        assert (first, second, third) == (True, False, False)
    assert waited and len(naps) == waited


@pytest.mark.usefixtures("meeting")
def test_one_that_is_stopped_while_it_waits_to_tell_ends_as_others_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise UserError("bad")

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("contrapose.cli.main.run", fail)
    monkeypatch.setattr("contrapose.processes.time.sleep", interrupt)
    monkeypatch.setenv("RANK", "1")
    assert main(["align"]) == 130


def test_without_a_store_the_first_process_tells(monkeypatch, capsys: Capture) -> None:
    def fail(_: object) -> None:
        raise UserError("bad")

    monkeypatch.setattr("contrapose.cli.main.run", fail)
    monkeypatch.setattr("contrapose.processes._FIRST_S", 0.2)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "1")  # where nobody listens
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        assert main(["align"]) == 2
    assert capsys.readouterr().err.splitlines() == ["contrapose: bad"]
