"""Errors weighted by where a pair differs: the formula written out, its limits to the last bit, and its gradient."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from comparing import (
    PATH,
    PROMPTS,
    SHAPE,
    TIMES,
    B,
    a_group,
    evaluate,
    gradient,
    near_the_reference,
    relative_error,
    some_policies,
)
from torch import Tensor

from contrapose.core.group import Group
from contrapose.core.links import IPO, Guarded, Sigmoid
from contrapose.core.measured import Measured
from contrapose.core.objective import Objective
from contrapose.core.reward import element_weights, mean_square

MASK = torch.tensor([[[[0.0, 0.25], [1.0, 0.5]]], [[[1.0, 0.0], [0.0, 0.0]]], [[[0.1, 0.9], [0.3, 1.0]]]])
FLOOR = 0.1


def masked(group: Group, mask: Tensor = MASK, floor: float = FLOOR) -> Group:
    return replace(group, weights=element_weights(mask, floor))


def by_overlap(seen: Measured) -> Tensor:
    """A guard that reads the overlap of residuals, as SDPO's does."""
    cosine = seen.overlap[:, 0, 1] / (seen.T[:, 0] * seen.T[:, 1]).sqrt()
    return torch.stack([torch.ones_like(cosine), (1 + cosine) / 2], 1)


@pytest.mark.parametrize("floor", [0.1, 1 / 3, 0.7, 1.0])
def test_weights_have_mean_one_and_the_floor_outside(floor):
    weights = element_weights(MASK, floor)
    expected = floor + (1 - floor) * MASK
    torch.testing.assert_close(weights, expected / expected.mean((1, 2, 3), keepdim=True))
    torch.testing.assert_close(weights.mean((1, 2, 3)), torch.ones(B))


@pytest.mark.parametrize("floor", [0.1, 1 / 3, 0.7, 1.0])
def test_a_mask_of_all_or_of_nothing_weighs_all_alike(floor):
    ones = torch.ones(B, 1, 3, 7)
    assert torch.equal(element_weights(ones, floor), ones)
    torch.testing.assert_close(element_weights(0 * ones, floor), ones)


def test_what_is_alike_everywhere_has_the_error_that_it_has_without_a_mask():
    """So that beta keeps its unit."""
    difference = torch.full((B, *SHAPE), 0.3)
    torch.testing.assert_close(mean_square(difference, element_weights(MASK, FLOOR)), mean_square(difference))


def test_what_is_measured_is_the_weighted_formula():
    """T, R, D, the reward and the overlap of residuals, written out elsewhere than in the objective."""
    group, predict = a_group(dtype=torch.float64), near_the_reference(0.3)
    measured = evaluate(Objective(PROMPTS, Sigmoid(), 3.0), masked(group), predict).measured
    w = (FLOOR + (1 - FLOOR) * MASK).double()
    w = w / w.mean((1, 2, 3), keepdim=True)
    trainee, reference = predict.nets["trainee"], predict.nets["reference"]
    c = group.prompts["prompt"]
    residuals = []
    for side, (name, slot) in enumerate([("winner", "prompt"), ("loser", "degraded")]):
        x_t = PATH.add_noise(group.samples[name].latent, group.samples[name].noise, TIMES)
        truth = reference(x_t, TIMES, group.prompts[slot])
        differences = {
            "T": truth - trainee(x_t, TIMES, c),
            "R": truth - reference(x_t, TIMES, c),
            "D": trainee(x_t, TIMES, c) - reference(x_t, TIMES, c),
        }
        for number, difference in differences.items():
            error = (w * difference.square()).sum((1, 2, 3)) / difference[0].numel()
            torch.testing.assert_close(getattr(measured, number)[:, side], error, rtol=1e-6, atol=1e-9)
        residuals.append(differences["T"])
    torch.testing.assert_close(measured.rewards, 1.5 * (measured.R - measured.T))
    product = (w * residuals[0] * residuals[1]).mean((1, 2, 3))
    torch.testing.assert_close(measured.overlap[:, 0, 1], product, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(measured.overlap, measured.overlap.mT)
    torch.testing.assert_close(measured.overlap.diagonal(dim1=1, dim2=2), measured.T)


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize(("mask", "floor"), [(torch.ones_like(MASK), 0.3), (MASK, 1.0)], ids=["ones", "floor 1"])
def test_a_mask_that_says_nothing_changes_no_bit(mask, floor, split):
    objective = Objective(PROMPTS, Guarded(Sigmoid(), by_overlap), 30.0, split=split)
    results = []
    for group in (a_group(), masked(a_group(), mask, floor)):
        predict = some_policies(5)
        outcome = evaluate(objective, group, predict)
        numbers = [outcome.loss.detach(), outcome.measured.overlap, *outcome.measured.live().values()]
        results.append(numbers + gradient(outcome, predict.nets["trainee"]))
    assert all(torch.equal(plain, weighted) for plain, weighted in zip(*results, strict=True))


@pytest.mark.parametrize("link", [Sigmoid(), IPO(), Guarded(Sigmoid(), by_overlap)])
def test_split_gives_the_gradient_of_the_masked_loss(link):
    group, predict = masked(a_group(dtype=torch.float64)), near_the_reference(1e-2)
    gradients = []
    for split in (False, True):
        objective = Objective(PROMPTS, link, 2.0, split=split)
        gradients.append(gradient(evaluate(objective, group, predict), predict.nets["trainee"]))
    assert relative_error(gradients[1], gradients[0]) <= 1e-12


def test_what_lies_outside_of_a_mask_counts_as_its_floor_says():
    """Of a network's prediction at one element: the gradient is that without a mask, times its weight."""
    difference = torch.randn(B, *SHAPE, dtype=torch.float64, requires_grad=True)
    weights = element_weights(MASK, FLOOR)
    [plain] = torch.autograd.grad(mean_square(difference).sum(), difference)
    [weighted] = torch.autograd.grad(mean_square(difference, weights).sum(), difference)
    torch.testing.assert_close(weighted, plain * weights)
