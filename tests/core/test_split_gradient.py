"""The gradient one side at a time: of every link, the gradient of the whole loss, with one side's activations."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from comparing import (
    KINDS,
    PLAIN,
    PROMPTS,
    B,
    a_group,
    evaluate,
    gradient,
    near_the_reference,
    relative_error,
    some_policies,
)
from torch import Tensor, nn

from contrapose.core.guards import SDPO, Cooling
from contrapose.core.links import IPO, Clipped, Guarded, Hinge, Identity, Sigmoid, Signed
from contrapose.core.objective import Objective, Side
from contrapose.methods import METHODS

LINKS = [
    Identity(), Sigmoid(), Sigmoid(smoothing=0.2), IPO(), Hinge(), Signed((1.0, 1.0)), Signed((0.3, -2.0)),
    Guarded(Sigmoid(), SDPO(0.9)), Guarded(IPO(), SDPO(0.9)), Guarded(IPO(), Cooling()), Clipped(clip=None),
]  # fmt: skip
SIDES = dict(KINDS)
for name, cls in METHODS.items():
    sides = cls().objective().sides
    # several methods have sides of one kind; two trainees are always split, and lists have links of their own; sides
    # that share a state are one prediction, which is never split, and here they would share their noise as well
    share_state = any(side.state for side in sides)
    if sides not in SIDES.values() and name != "chats" and len(sides) <= 2 and not share_state:
        SIDES[name] = sides


def _compares(sides, link):
    """Whether the link's gradient is not 0 for these sides: one alone has nothing to be compared with, and both sides
    of one sample have its one label, for which a hinge's two slopes cancel."""
    if len(sides) == 1:
        return link == Identity()
    return len({side.sample for side in sides}) > 1 or link != Hinge()


CASES = [
    pytest.param(sides, link, id=f"{name}-{type(link).__name__}{number}")
    for name, sides in SIDES.items()
    for number, link in enumerate(LINKS)
    if _compares(sides, link)
]


@pytest.mark.parametrize(("weighting", "space"), [("none", None), ("linear", "x0"), ("sigmoid", "v")])
@pytest.mark.parametrize(("sides", "link"), CASES)
def test_split_gives_the_gradient_of_the_loss(sides, link, weighting, space):
    """In double precision, where the two ways of stacking rows agree to the last digits but one."""
    names = [side.sample for side in sides]
    shares = torch.tensor([1.0, 0.5, 0.3])
    labels = dict(zip(names, (shares, 1 - shares), strict=False))
    group = a_group(*names, labels=labels, dtype=torch.float64)
    for beta in (2.0, 5000.0):
        predict = near_the_reference(1e-2 / math.sqrt(beta))
        objective = Objective(sides, link, beta, weighting=weighting, space=space)
        whole, split = (
            gradient(evaluate(replace(objective, split=on), group, predict), predict.nets["trainee"])
            for on in (False, True)
        )
        assert relative_error(split, whole) <= 1e-12


def test_split_finds_what_the_whole_finds():
    objective, group = Objective(PROMPTS, Sigmoid(), 30.0), a_group()
    whole, split = (evaluate(replace(objective, split=on), group, some_policies(5)) for on in (False, True))
    assert not split.loss.requires_grad
    assert torch.equal(split.loss, whole.loss.detach())
    for name, value in vars(whole.measured).items():
        same = getattr(split.measured, name)
        assert torch.equal(same, value) if isinstance(value, Tensor) else same == value


@pytest.mark.parametrize("num", [2, 3, 5])
def test_split_predicts_a_side_when_its_part_is_asked_for(num):
    """One more forward of the trainee in all; frozen policies are asked no more than before."""
    names = [str(place) for place in range(num)]
    objective = Objective(tuple(Side(name) for name in names), Identity(), 30.0, split=True)
    predict = some_policies(trainee_seed=5)
    parts = iter(evaluate(objective, a_group(*names), predict).parts)
    assert predict.calls == [("reference", num * B, False), ("trainee", num * B, False)]
    for count in range(1, num + 1):
        next(parts).sum().backward()
        assert predict.calls[2:] == [("trainee", B, True)] * count
    assert next(parts, None) is None


@pytest.mark.parametrize("sides", [(Side("winner"),), (Side("winner"), Side("winner"))])
def test_one_prediction_has_nothing_to_split(sides):
    predict = some_policies(trainee_seed=5)
    outcome = evaluate(Objective(sides, Identity(), 2.0, split=True), a_group(), predict)
    assert outcome.parts == (outcome.loss,)
    assert predict.calls == [("reference", B, False), ("trainee", B, True)]


def test_nothing_is_split_where_no_gradient_is_wanted():
    predict = some_policies(trainee_seed=5)
    with torch.no_grad():
        outcome = evaluate(Objective(PLAIN, Sigmoid(), 400.0, split=True), a_group(), predict)
    assert [loss.requires_grad for loss in outcome.parts] == [False]
    assert len(predict.calls) == 2


def test_split_halves_the_activations():
    """Bytes that autograd keeps for the backward pass, at their highest, of a small convolutional trainee."""
    net = nn.Sequential(nn.Conv2d(4, 64, 3, padding=1), nn.SiLU(), nn.Conv2d(64, 64, 3, padding=1), nn.SiLU(),
                        nn.Conv2d(64, 4, 3, padding=1))  # fmt: skip
    weights = {p.data_ptr() for p in net.parameters()}

    def predict(policy, x_t, t, condition):
        return net(x_t) if policy == "trainee" else x_t

    def peak(objective: Objective) -> int:
        alive, highest = 0, 0

        class Kept:
            def __init__(self, value: Tensor) -> None:
                nonlocal alive, highest
                self.value, self.size = value, 0 if value.data_ptr() in weights else value.nbytes
                alive += self.size
                highest = max(highest, alive)

            def __del__(self) -> None:
                nonlocal alive
                alive -= self.size

        with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.value):
            gradient(evaluate(objective, a_group(b=2), predict), net)
        return highest

    objective = Objective(PLAIN, Sigmoid(), 1.0)
    assert peak(replace(objective, split=True)) <= 0.55 * peak(objective)
