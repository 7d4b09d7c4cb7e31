"""Links: closed forms, written out with plain Python; a new link is tested by a line in PAIRS, or in CLOSED_FORMS."""

from __future__ import annotations

import math

import pytest
import torch
from comparing import measured
from hypothesis import given
from hypothesis import strategies as st

from contrapose.core import links
from contrapose.core.links import IPO, Clipped, Guarded, Hinge, Identity, Sigmoid, Signed


def log_sigmoid(m: float) -> float:
    return -math.log1p(math.exp(-m))


# link, and its loss for the margin m = r_w - r_l and the winner's label p
PAIRS = [
    (Sigmoid(), lambda m, p: -p * log_sigmoid(m) - (1 - p) * log_sigmoid(-m)),
    (Sigmoid(smoothing=0.1), lambda m, p: -(0.8 * p + 0.1) * log_sigmoid(m) - (0.9 - 0.8 * p) * log_sigmoid(-m)),
    (IPO(), lambda m, p: p * (m - 0.5) ** 2 + (1 - p) * (m + 0.5) ** 2),
    (IPO(margin=2.0), lambda m, p: p * (m - 2) ** 2 + (1 - p) * (m + 2) ** 2),
    (Hinge(), lambda m, p: p * max(0, 1 - m) + (1 - p) * max(0, 1 + m)),
    (Hinge(margin=1e-3), lambda m, p: p * max(0, 1e-3 - m) + (1 - p) * max(0, 1e-3 + m)),
]
# links of any number of sides, and their loss for one group's rewards
CLOSED_FORMS = [
    (Identity(), [1.0, 2.0, 6.0], -3.0),
    (Identity(), [-0.5], 0.5),
    (Signed(), [1.5, 0.5], -log_sigmoid(1.0)),
    (Signed((1.0, 1.0)), [1.5, 0.5], -log_sigmoid(2.0)),
    (Signed((0.5, -2.0, 0.25)), [1.0, 0.5, -2.0], -log_sigmoid(-1.0)),
    (Clipped(), [-0.02, 0.05], -log_sigmoid(-10 * (-0.02 - 0.05))),  # labels (0, 0): the second is preferred
    (Clipped(beta=2.0, clip=0.2), [-3.0, 0.5], -log_sigmoid(-2 * (math.log(0.8) - math.log(1.2)))),
    (Clipped(clip=None), [-0.3, 0.5], -log_sigmoid(8.0)),
    (Guarded(IPO(), lambda seen: torch.zeros_like(seen.rewards)), [2.0, 0.5], 0.0),  # m = 1.5, labels (0, 0)
]
each_link = pytest.mark.parametrize(("link", "formula"), PAIRS)
rewards = st.floats(-20, 20)


def loss_of(link, winner: float, loser: float, p: float = 1.0) -> float:
    return link(measured(torch.tensor([[winner, loser]]), torch.tensor([[p, 1 - p]]))).item()


def test_the_tables_cover_the_module():
    """Every class of the module that can be made is a link; the two protocols cannot."""
    defined = {cls for cls in vars(links).values() if isinstance(cls, type) and cls.__module__ == links.__name__}
    assert {type(row[0]) for row in [*PAIRS, *CLOSED_FORMS]} == defined - {links.Link, links.Guard}
    assert set(links.LINKS.values()) == {type(link) for link, _ in PAIRS}


@each_link
@given(winner=rewards, loser=rewards, p=st.sampled_from([1.0, 0.5, 0.0, 0.7]))
def test_closed_form(link, formula, winner, loser, p):
    assert loss_of(link, winner, loser, p) == pytest.approx(formula(winner - loser, p), rel=1e-4, abs=1e-4)


@pytest.mark.parametrize(("link", "of_group", "expected"), CLOSED_FORMS)
def test_closed_form_of_any_number_of_sides(link, of_group, expected):
    """Whatever the labels: these links do not read them, or get none."""
    assert link(measured(torch.tensor([of_group]))).tolist() == pytest.approx([expected])


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
    link(measured(r, torch.tensor([[1.0, 0.0]]))).sum().backward()
    assert r.grad[0, 0] < 0 < r.grad[0, 1]
    assert r.grad.sum().abs() < 1e-6


@each_link
def test_a_tie_pulls_nowhere_at_equal_rewards(link, formula):
    """The field kept ties as wins of the first image."""
    r = torch.full((1, 2), 0.3, requires_grad=True)
    link(measured(r, torch.tensor([[0.5, 0.5]]))).sum().backward()
    assert r.grad.abs().max() < 1e-6


@each_link
def test_each_pair_is_scored_alone(link, formula):
    """The field took the link of the batch mean; a loss per pair, averaged afterwards, is another number."""
    r = torch.tensor([[4.0, 0.0], [0.0, 4.0]])
    each = link(measured(r, torch.tensor([[1.0, 0.0]]).repeat(2, 1)))
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


@given(winner=rewards, loser=rewards)
def test_signed_weights_of_a_pair_are_the_sigmoid(winner, loser):
    assert loss_of(Signed(), winner, loser) == pytest.approx(loss_of(Sigmoid(), winner, loser))


def test_a_weight_is_wanted_for_each_side():
    with pytest.raises(AssertionError, match="a weight for each side"):
        Signed((1.0, 1.0))(measured(torch.zeros(1, 3)))


def test_a_guard_keeps_the_loss_and_scales_the_slopes():
    """Of r, T and D alike, side by side; the guard's own answer carries no gradient."""
    kept = torch.tensor([[1.0, 0.25]])

    def guard(seen):
        assert not any(value.requires_grad for value in seen.live().values())
        return kept

    def link(seen):
        return (seen.rewards + 2 * seen.T.square() + 3 * seen.D).sum(1)

    leaves = {name: torch.tensor([[0.5, 2.0]], requires_grad=True) for name in ("rewards", "T", "D")}
    plain, guarded = (each(measured(leaves["rewards"]).with_live(leaves)) for each in (link, Guarded(link, guard)))
    assert torch.equal(plain, guarded)
    slopes = torch.autograd.grad(plain.sum(), list(leaves.values()))
    scaled = torch.autograd.grad(guarded.sum(), list(leaves.values()))
    for whole, part in zip(slopes, scaled, strict=True):
        assert torch.equal(part, kept * whole)
