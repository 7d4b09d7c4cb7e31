"""Progress: what matters is seen in a terminal of 80 columns, and a log gets plain lines."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from contrapose.cli import follow as module
from contrapose.cli.follow import follow, follow_once_begun
from contrapose.cli.pace import Pace, peak_memory
from contrapose.cli.progress import Bar
from contrapose.cli.progress_line import ProgressLine
from contrapose.train.loop import TrainState

NOTES = ("loss 0.693", "accuracy 0.5", "drift 5e-09")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, to be set."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def after(clock: list[float], calls: int, seconds: float, total: int = 300) -> Pace:
    pace = Pace(total)
    for done in range(calls + 1):
        pace(done, total)
        clock[0] += seconds
    return pace


@pytest.mark.parametrize("title", ["aligning with ddspo", "aligning with diffusion-dpo", "aligning with ddspo-data"])
@pytest.mark.parametrize("seconds", [0.02, 1.25, 75.0])
def test_step_time_left_loss_pace_and_memory_are_seen_at_80_columns(clock, title: str, seconds: float):
    line = ProgressLine(title, after(clock, 250, seconds), "step")
    line.notes = NOTES
    line.memory = "13.0 GiB"
    text = line.text(80).plain
    assert len(text) <= 80
    assert all(part in text for part in ("250/300", " left", "loss 0.693", "13.0 GiB", "step"))
    assert text.startswith(title[:11])


def test_a_wide_terminal_shows_all_and_a_bar(clock):
    line = ProgressLine("aligning with ddspo", after(clock, 150, 1.0), "step")
    line.notes = NOTES
    text = line.text(140).plain
    assert all(note in text for note in NOTES)
    assert text.count("━") == 20
    assert "…" in line.text(25).plain and len(line.text(25).plain) <= 25


def test_slow_steps_have_a_time_left_that_runs_down(clock):
    """Rich forgets what is older than half a minute, which a step of a large batch takes."""
    pace = after(clock, 3, 120.0, total=13)
    assert pace.seconds == 120
    assert pace.left == "0:18:00 left"  # ten steps, of which the next one has taken its two minutes already
    assert Pace(10).left == "" and Pace().count == "0"


def test_a_log_gets_the_first_the_last_and_some_between(clock, capsys):
    def states() -> Iterator[TrainState]:
        yield TrainState(0, {})
        for step in range(1, 101):
            clock[0] += 2.0
            yield TrainState(step, {"loss": 0.5, "other": 1.0})

    follow("aligning", 100, states(), "step")
    lines = capsys.readouterr().err.splitlines()
    assert [int(line.split()[1].split("/")[0]) for line in lines] == [1, *range(6, 100, 5), 100]
    assert lines[1].startswith("aligning: 6/100, 0:03:08 left, loss 0.5, 2 s/step, peak ")


@pytest.fixture
def order(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The beginnings and ends of bars, in what rich takes for a terminal."""
    order: list[str] = []

    class Noted(Bar):
        def __enter__(self) -> Bar:
            order.append(f"{self._line.title} begins")
            return super().__enter__()

        def __exit__(self, *error: object) -> None:
            order.append(f"{self._line.title} ends")
            super().__exit__(*error)

    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(module, "Bar", Noted)
    return order


def test_a_bar_is_there_before_the_first_is_done(order):
    def images() -> Iterator[int]:
        order.append("drawing")
        yield 1

    follow("sampling", 1, images())
    assert order == ["sampling begins", "drawing", "sampling ends"]


def test_what_leads_up_to_the_beginning_has_the_terminal_to_itself(order, capsys):
    def states() -> Iterator[TrainState]:
        with module.Bar("reading prompts") as bar:
            bar(40, 40)
        yield TrainState(0, {})
        yield TrainState(1, {"loss": 0.5})

    follow_once_begun("aligning", 1, states(), "step")
    assert order == ["reading prompts begins", "reading prompts ends", "aligning begins", "aligning ends"]
    shown = capsys.readouterr().err
    assert "reading prompts" in shown and "loss 0.5" in shown


def test_fast_work_is_told_twice_and_slow_work_every_ten_minutes(clock, capsys):
    with Bar("reading", 1000) as bar:
        for done in range(1, 1001):
            bar(done)
    assert len(capsys.readouterr().err.splitlines()) == 2
    with Bar("drawing", 1000) as bar:
        for done in range(1, 21):
            clock[0] += 300
            bar(done)
    assert len(capsys.readouterr().err.splitlines()) == 10


def test_what_fails_before_it_begins_leaves_no_line(capsys):
    with pytest.raises(ValueError), Bar("drawing", 10):
        raise ValueError
    assert capsys.readouterr().err == ""


def test_memory_is_the_process_where_there_is_no_gpu():
    number, unit = peak_memory().split()
    assert unit == "GiB" and 0.05 < float(number) < 1000
