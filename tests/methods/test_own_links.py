"""Links that a method has for itself: where they stand still, and where a computer's numbers end."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from comparing import measured

from contrapose.core.links import Sigmoid
from contrapose.methods.diffusion_lpo import PlackettLuce
from contrapose.methods.dmpo import ReverseKL
from contrapose.methods.mapo import FittedMargin
from contrapose.methods.rank_dpo import DiscountedGain


def test_dmpo_stands_still_at_the_margin_of_its_smoothed_label_and_is_finite_far_away():
    """Far on the wrong side it gives a pair up; a tie's margin is 0, and of shares it lies between."""
    margins = [[4.0, 4.0 - math.log(99)], [-500.0, 500.0], [500.0, -500.0], [0.0, 0.0]]
    rewards = torch.tensor(margins, dtype=torch.float64)
    rewards.requires_grad_()
    labels = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.5, 0.5]]).double()
    losses = ReverseKL(0.01)(measured(rewards, labels))
    assert losses.tolist() == pytest.approx([0.0, -math.log(0.01), -math.log(0.99), 0.0], abs=1e-12)
    losses.sum().backward()
    torch.testing.assert_close(rewards.grad, torch.zeros_like(rewards), rtol=0, atol=1e-12)


def test_mapo_takes_small_errors_in_single_precision():
    """exp(x) - 1 of a small x loses most of its digits there, and is what x is divided by."""
    labels = torch.tensor([[1.0, 0.0]]).expand(3, 2)
    gradients = []
    for dtype in (torch.float32, torch.float64):
        errors = torch.tensor([[3e-3, 1e-3], [1e-3, 4e-3], [0.3, 0.1]], dtype=dtype, requires_grad=True)
        seen = replace(measured(torch.zeros(3, 2, dtype=dtype), labels.to(dtype)), T=errors)
        gradients.append(torch.autograd.grad(FittedMargin(0.1, 0.5)(seen).sum(), errors)[0].double())
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=0)


def test_a_list_of_two_is_a_pair_of_diffusion_dpo():
    """In either order, and for Diffusion-LPO whatever its shares, as long as they are decided."""
    rewards = torch.tensor([[0.3, -1.0], [0.3, -1.0]]).double()
    labels = torch.tensor([[1.0, 0.0], [0.3, 0.7]]).double()
    seen = measured(rewards, labels)
    decided = replace(seen, labels=labels.round())
    torch.testing.assert_close(PlackettLuce()(seen), Sigmoid()(decided))
    ratio = DiscountedGain(None)(decided) / Sigmoid()(decided)
    torch.testing.assert_close(ratio, torch.full_like(ratio, 1 / math.log(2) - 1 / math.log(3)))


def test_lists_pull_apart_at_the_start_and_equals_nowhere():
    labels = torch.tensor([[1.0, 0.6, 0.6, 0.0], [0.5, 0.5, 0.5, 0.5]]).double()
    for link in (PlackettLuce(), DiscountedGain(None)):
        rewards = torch.zeros(2, 4, dtype=torch.float64, requires_grad=True)
        link(measured(rewards, labels)).sum().backward()
        assert rewards.grad[0, 0] < 0 < rewards.grad[0, 3]
        torch.testing.assert_close(rewards.grad[1], torch.zeros(4, dtype=torch.float64))
