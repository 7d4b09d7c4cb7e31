"""What is carried from step to step: policies that follow the trainee, and numbers that follow a batch's means."""

from __future__ import annotations

import pytest
import torch

from contrapose.core.moving import Average, Every
from contrapose.core.running import Running, RunningNumbers


def test_a_copy_is_taken_every_so_many_steps() -> None:
    assert [Every(3)(step) for step in range(1, 8)] == [1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0]
    assert {Every(1)(step) for step in range(1, 5)} == {0.0}, "the learner itself"


def test_an_average_keeps_the_same_share_at_every_step() -> None:
    assert {Average(0.99)(step) for step in (1, 10, 1000)} == {0.99}


@pytest.mark.parametrize(
    ("average", "kept"),
    [
        (Average(0.5, growth=0.001), {1: 0.001, 200: 0.2, 500: 0.5, 900: 0.5}),
        (Average(0.999, growth=0.0075, delay=75), {1: 0.0, 75: 0.0, 77: 0.015, 1000: 0.999}),
    ],
)
def test_an_average_may_begin_as_the_trainee(average: Average, kept: dict[int, float]) -> None:
    """DiffusionNFT's two schedules."""
    assert {step: average(step) for step in kept} == pytest.approx(kept)


FOLLOWED = {
    "baseline": Running(of=lambda seen: seen.rewards.mean(1), decay=0.5),
    "scale": Running(of=lambda seen: seen.T.mean(1), decay=0.75, start=1.0),
}


def test_a_number_follows_the_means() -> None:
    numbers = RunningNumbers(FOLLOWED)
    assert numbers.values == {"baseline": 0.0, "scale": 1.0}
    numbers.update({"baseline": 4.0, "scale": 5.0, "loss": 9.0})
    assert numbers.values == {"baseline": 2.0, "scale": 2.0}


def test_numbers_come_back_to_the_bit() -> None:
    numbers, other = RunningNumbers(FOLLOWED), RunningNumbers(FOLLOWED)
    numbers.update({"baseline": 0.1, "scale": 1 / 3})
    other.load(numbers.state())
    assert other.values == numbers.values
    assert all(value.dtype == torch.float64 for value in numbers.state().values())
