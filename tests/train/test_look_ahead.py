"""One thread prepares what comes next: the same numbers as without it, errors in their place, and no thread left."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from contrapose.errors import UserError
from contrapose.methods import DDSPO, DiffusionDRO, Method
from contrapose.train.align import align
from contrapose.train.look_ahead import NAME, LookAhead
from contrapose.train.loop import Diverged
from contrapose.train.settings import Optimisation, Run, Watching

pytestmark = pytest.mark.usefixtures("few_levels")


def _threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(NAME)]


class Counted:
    """Numbers from 0 on, and how many of them were made."""

    def __init__(self, num: int = 20, broken: int | None = None):
        self.num = num
        self.broken = broken
        self.num_made = 0
        self.threads: set[str] = set()

    def __iter__(self) -> Iterator[int]:
        for number in range(self.num):
            self.threads.add(threading.current_thread().name)
            if number == self.broken:
                raise UserError(f"{number} cannot be read")
            self.num_made += 1
            yield number


@pytest.mark.parametrize("num_ahead", [0, 1, 3])
def test_items_come_in_order_and_so_many_ahead(num_ahead: int) -> None:
    items = Counted()
    with LookAhead[int](num_ahead) as look_ahead:
        seen = []
        for number in look_ahead.over(items):
            seen.append(number)
            look_ahead.rest()
            assert items.num_made == min(number + 1 + num_ahead, items.num)
        assert list(look_ahead.over(["another"])) == ["another"]
    assert seen == list(range(items.num))
    assert len(items.threads) == 1 and items.threads.pop().startswith(NAME)
    assert not _threads()
    assert look_ahead.waited > 0


def test_an_error_is_raised_where_its_item_is_asked_for() -> None:
    seen = []
    with LookAhead[int](3) as look_ahead, pytest.raises(UserError, match="4 cannot be read"):
        for number in look_ahead.over(Counted(broken=4)):
            seen.append(number)
    assert seen == [0, 1, 2, 3]
    assert not _threads()


def test_the_thread_ends_when_the_user_stops_it() -> None:
    with pytest.raises(KeyboardInterrupt), LookAhead[int](2) as look_ahead:
        for number in look_ahead.over(Counted()):
            if number == 5:
                raise KeyboardInterrupt
    assert not _threads()


# In a run


OPTIMISATION = Optimisation(learning_rate=1e-3, train_steps=4, batch_size=6, micro_batch=2)


@pytest.fixture
def run(tiny_model: Path, tiny_pairs: Path) -> Run:
    watching = Watching(holdout=2, evaluate_every=2, save_every=2, trackers=())
    return Run(str(tiny_model), tiny_pairs, DDSPO(beta=200.0), optimisation=OPTIMISATION, watching=watching)


def _in_turn(self: LookAhead, items: Iterable) -> Iterator:
    """As without a thread: each item is made by whoever asks for it."""
    yield from items


ON_POLICY = DiffusionDRO(rollout_steps=3, states=2, rollouts=2, buffer=3, sync_every=1)


@pytest.mark.parametrize("method", [DDSPO(beta=200.0, losers="not-paired"), ON_POLICY], ids=["stored", "on policy"])
def test_a_run_is_the_same_to_the_byte(
    run: Run, method: Method, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = replace(run, method=method)
    ahead = [state.metrics for state in align(run, tmp_path / "ahead")]
    monkeypatch.setattr(LookAhead, "over", _in_turn)
    assert [state.metrics for state in align(run, tmp_path / "in turn")] == ahead
    weights = "pytorch_lora_weights.safetensors"
    assert (tmp_path / "ahead" / weights).read_bytes() == (tmp_path / "in turn" / weights).read_bytes()


def test_no_thread_outlives_its_run(run: Run, tmp_path: Path) -> None:
    list(align(run, tmp_path / "whole"))
    assert not _threads()
    states = align(run, tmp_path / "stopped")
    for _ in range(3):
        next(states)
    assert len(_threads()) == 1
    states.close()  # as Ctrl-C does to a generator that nobody holds any more
    assert not _threads()
    fast = replace(run.optimisation, learning_rate=1e3)
    with pytest.raises(Diverged, match="diverged at step"):
        list(align(replace(run, optimisation=fast), tmp_path / "diverged"))
    assert not _threads()
