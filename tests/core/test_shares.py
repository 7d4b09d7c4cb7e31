"""Shares of predictions, whoever made them."""

from __future__ import annotations

import torch

from contrapose.core.objective import Row
from contrapose.core.shares import mix

ONES, TWOS = torch.ones(2, 3), torch.full((2, 3), 2.0)


def test_a_sum_of_shares() -> None:
    assert torch.equal(mix({"a": ONES, "b": TWOS}, {"a": 3.0, "b": -0.5}), torch.full((2, 3), 2.0))


def test_one_prediction_alone_is_given_back_as_it_is() -> None:
    row = Row("reference", "winner")
    assert mix({row: ONES, Row("reference", "loser"): TWOS}, {row: 1.0}) is ONES


def test_one_prediction_may_be_scaled() -> None:
    assert torch.equal(mix({"a": TWOS}, {"a": 0.5}), ONES)
