"""Links: closed forms, written out with plain Python; a new link is tested by a line in LINKS."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from contrapose.core.links import IPO, Hinge, Identity, Sigmoid


def log_sigmoid(m: float) -> float:
    return -math.log1p(math.exp(-m))


# link, and its loss for the margin m = r_w - r_l and the winner's label p
LINKS = [
    (Sigmoid(), lambda m, p: -p * log_sigmoid(m) - (1 - p) * log_sigmoid(-m)),
    (Sigmoid(smoothing=0.1), lambda m, p: -(0.8 * p + 0.1) * log_sigmoid(m) - (0.9 - 0.8 * p) * log_sigmoid(-m)),
    (IPO(), lambda m, p: p * (m - 0.5) ** 2 + (1 - p) * (m + 0.5) ** 2),
    (IPO(margin=2.0), lambda m, p: p * (m - 2) ** 2 + (1 - p) * (m + 2) ** 2),
    (Hinge(), lambda m, p: p * max(0, 1 - m) + (1 - p) * max(0, 1 + m)),
    (Hinge(margin=1e-3), lambda m, p: p * max(0, 1e-3 - m) + (1 - p) * max(0, 1e-3 + m)),
]
each_link = pytest.mark.parametrize(("link", "formula"), LINKS)
rewards = st.floats(-20, 20)


def loss_of(link, winner: float, loser: float, p: float = 1.0) -> float:
    return link(torch.tensor([[winner, loser]]), torch.tensor([[p, 1 - p]])).item()


@each_link
@given(winner=rewards, loser=rewards, p=st.sampled_from([1.0, 0.5, 0.0, 0.7]))
def test_closed_form(link, formula, winner, loser, p):
    assert loss_of(link, winner, loser, p) == pytest.approx(formula(winner - loser, p), rel=1e-4, abs=1e-4)


@each_link
@given(winner=rewards, loser=rewards, shift=rewards)
def test_only_the_difference_of_rewards_counts(link, formula, winner, loser, shift):
    assert loss_of(link, winner + shift, loser + shift) == pytest.approx(
        loss_of(link, winner, loser), rel=1e-3, abs=1e-3
    )


@each_link
@given(winner=rewards, loser=rewards, p=st.floats(0, 1))
def test_sides_and_labels_may_change_places(link, formula, winner, loser, p):
    assert loss_of(link, winner, loser, p) == pytest.approx(loss_of(link, loser, winner, 1 - p), rel=1e-4, abs=1e-4)


@each_link
def test_at_the_start_a_winner_is_pulled_up(link, formula):
    r = torch.zeros(1, 2, requires_grad=True)
    link(r, torch.tensor([[1.0, 0.0]])).sum().backward()
    assert r.grad[0, 0] < 0 < r.grad[0, 1]
    assert r.grad.sum().abs() < 1e-6


@each_link
def test_a_tie_pulls_nowhere_at_equal_rewards(link, formula):
    """The field kept ties as wins of the first image."""
    r = torch.full((1, 2), 0.3, requires_grad=True)
    link(r, torch.tensor([[0.5, 0.5]])).sum().backward()
    assert r.grad.abs().max() < 1e-6


@each_link
def test_each_pair_is_scored_alone(link, formula):
    """The field took the link of the batch mean; a loss per pair, averaged afterwards, is another number."""
    r = torch.tensor([[4.0, 0.0], [0.0, 4.0]])
    labels = torch.tensor([[1.0, 0.0]]).repeat(2, 1)
    each = link(r, labels)
    assert each.shape == (2,)
    assert each.mean().item() == pytest.approx((formula(4.0, 1.0) + formula(-4.0, 1.0)) / 2, rel=1e-5)
    assert each.mean().item() > formula(0.0, 1.0)


def test_sigmoid_starts_at_log_two_and_does_not_overflow():
    assert loss_of(Sigmoid(), 0.0, 0.0) == pytest.approx(math.log(2))
    assert loss_of(Sigmoid(), -5000.0, 5000.0) == pytest.approx(10000.0)


def test_ipo_is_the_papers_square_in_units_of_beta():
    """Azar et al. 2023, eq. 17: (h - 1 / (2 beta))^2 with m = beta h."""
    beta, h = 40.0, 0.03
    assert loss_of(IPO(), beta * h, 0.0) == pytest.approx(beta**2 * (h - 1 / (2 * beta)) ** 2, rel=1e-5)


def test_identity_is_the_mean_of_negative_rewards_of_any_number_of_sides():
    assert Identity()(torch.tensor([[1.0, 2.0, 6.0]]), torch.zeros(1, 3)).tolist() == [-3.0]
