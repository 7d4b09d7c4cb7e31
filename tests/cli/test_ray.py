"""`contrapose ray` before there is a cluster: what it refuses, and how the workers' progress comes to one bar."""

from __future__ import annotations

import socket
import sys

import pytest

from contrapose.cli.main import main
from contrapose.cli.shared_bar import SharedBar
from contrapose.errors import UserError
from contrapose.on_ray import HowFar, amounts, connected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "a command is wanted behind two dashes"),
        (["--"], "a command is wanted behind two dashes"),
        (["--", "align", "ddspo"], "align: is not shared by workers (for them are evaluate, pairs draw"),
        (["--", "paint"], "paint: no such command"),
        (["--resources", "GPU", "--", "sample"], "resources GPU: a name and how much of it is wanted"),
        (["--resources", "CPU:0", "--", "sample"], "resources CPU:0: a name and how much of it is wanted"),
        (["--resources", "GPU:1.5", "--", "sample"], "resources GPU:1.5: a share of one GPU is wanted"),
        (["--resources", "--", "sample"], "resources: at least one is wanted, such as CPU:1"),
        (["--resources", "CPU:1", "CPU:2", "--", "sample"], "resources CPU:2: says again how much CPU is wanted"),
        (["--workers", "0", "--", "sample"], "workers 0: a whole number from 1"),
    ],
)
def test_what_cannot_be_started(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ray", *arguments]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_without_ray(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["ray", "--", "sample"]) == 2
    assert "ray is not installed; run 'pip install contrapose[ray]'" in " ".join(capsys.readouterr().err.split())


def test_the_workers_commands_have_their_own_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["ray", "--", "pairs", "score", "--help"])
    assert "--judges" in capsys.readouterr().out


def test_an_address_where_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = f"127.0.0.1:{probe.getsockname()[1]}"
    monkeypatch.setenv("RAY_ADDRESS", free)
    for address in (free, "auto"):
        with pytest.raises(UserError, match=f"address {free}: no cluster of Ray answers"), connected(address):
            pass
    with pytest.raises(UserError, match="is for clients"), connected("ray://127.0.0.1:10001"):
        pass


def test_resources_are_read() -> None:
    of_a_kind = "accelerator_type:A100"
    assert amounts(["GPU:0.5", "judge:2", f"{of_a_kind}:0.01"]) == {"GPU": 0.5, "judge": 2, of_a_kind: 0.01}


def test_a_bar_of_all_counts_nothing_twice(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("contrapose.cli.progress._OFTEN", 0)
    with SharedBar(2) as bar:
        for number, title, done in [
            (0, "drawing", 3),
            (1, "drawing", 2),
            (0, "drawing", 6),  # with one of the other's, which that one will come to
            (1, "drawing", 4),
            (0, "judging", 1),
            (1, "drawing", 10),
            (0, "judging", 10),
        ]:
            bar(number, HowFar(title, done, 10))
    counts = [line.partition(",")[0] for line in capsys.readouterr().err.splitlines()]
    assert counts == [f"drawing: {done}/10" for done in (3, 5, 7, 9)] + ["judging: 1/10", "judging: 10/10"]
