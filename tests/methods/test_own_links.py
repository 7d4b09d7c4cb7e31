"""Links that a method has for itself: where they stand still, and where a computer's numbers end."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from comparing import measured

from contrapose.methods.dmpo import ReverseKL
from contrapose.methods.mapo import FittedMargin


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
