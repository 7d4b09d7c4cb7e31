"""Anchors: further frozen policies, whose distances from the trainee and from the truth a link may read."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from comparing import PATH, TIMES, B, a_group, evaluate, gradient, near_the_reference, relative_error
from torch import Tensor

from contrapose.core.group import Group
from contrapose.core.links import Link, Sigmoid
from contrapose.core.measured import Measured
from contrapose.core.moving import Average
from contrapose.core.objective import Objective, Side

PAIR = (Side("winner"), Side("loser"))


@dataclass(frozen=True)
class Anchored:
    """Another link's loss, and the distances from an anchor, weighted by how well it explains each sample."""

    link: Link
    anchor: str
    pull: float

    def __call__(self, seen: Measured) -> Tensor:
        drift = seen.drift_from[self.anchor] * seen.errors_of[self.anchor]
        return self.link(seen) + self.pull * drift.mean(1)


def mse(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().flatten(1).mean(1)


@pytest.mark.parametrize("split", [False, True], ids=["whole", "split"])
@pytest.mark.parametrize("pull", [0.05, 2.0])
def test_a_penalty_is_from_a_policy_that_rewards_are_not_against(pull: float, split: bool) -> None:
    """Rewards are against a policy that follows the trainee, the penalty against the one where it began."""
    group: Group = a_group(dtype=torch.float64)
    policies = near_the_reference(0.02)
    objective = Objective(
        PAIR, Anchored(Sigmoid(), "reference", pull), 3.0, reference="old", anchors=("reference",),
        moving={"old": Average(0.5, growth=0.001)}, split=split,
    )  # fmt: skip
    assert objective.plan().keys() == {"old", "reference", "trainee"}
    outcome = evaluate(objective, group, policies)
    ours = gradient(outcome, policies.nets["trainee"])

    rewards, penalties = [], []
    for sample in group.samples.values():
        x_t = PATH.add_noise(sample.latent, sample.noise, TIMES)
        theta, reference, old = (
            policies.nets[name](x_t, TIMES, group.prompts["prompt"]) for name in ("trainee", "reference", "old")
        )
        rewards.append(1.5 * (mse(sample.noise, old) - mse(sample.noise, theta)))
        penalties.append(pull * mse(theta, reference) * mse(sample.noise, reference).detach() / 2)
    loss = torch.log1p(torch.exp(rewards[1] - rewards[0])) + sum(penalties)
    torch.testing.assert_close(outcome.loss.detach(), loss.detach(), rtol=1e-12, atol=1e-14)
    theirs = list(torch.autograd.grad(loss.sum(), list(policies.nets["trainee"].parameters())))
    assert relative_error(ours, theirs) < 1e-12


@pytest.mark.parametrize("split", [False, True], ids=["whole", "split"])
def test_an_anchor_that_is_the_reference_is_asked_once(split: bool) -> None:
    group, policies = a_group(dtype=torch.float64), near_the_reference(0.02)
    objective = Objective(PAIR, Anchored(Sigmoid(), "reference", 0.1), 3.0, anchors=("reference",))
    outcome = evaluate(replace(objective, split=split), group, policies)
    assert [call for call in policies.calls if call[0] == "reference"] == [("reference", 2 * B, False)]
    torch.testing.assert_close(outcome.measured.drift_from["reference"], outcome.measured.D, rtol=0, atol=0)
    torch.testing.assert_close(outcome.measured.errors_of["reference"], outcome.measured.R, rtol=0, atol=0)


def test_a_trained_policy_anchors_nothing() -> None:
    with pytest.raises(ValueError, match="anchor trainee is trained"):
        Objective(PAIR, Sigmoid(), 3.0, anchors=("trainee",))
