"""The shape of the core, proven on methods that are not here yet.

Each is a short link, and its authors' loss is written out a second time on the predictions themselves. In double
precision the two have one value and one gradient, whether the gradient is taken at once or one side after the other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from comparing import (
    PATH,
    TIMES,
    B,
    Policies,
    a_group,
    evaluate,
    gradient,
    near_the_reference,
    relative_error,
)
from torch import Tensor
from torch.nn import functional as F

from contrapose.core.group import Group
from contrapose.core.links import Link, Sigmoid
from contrapose.core.measured import Measured
from contrapose.core.moving import Average
from contrapose.core.objective import Objective, Side

PAIR = (Side("winner"), Side("loser"))


# The links


@dataclass(frozen=True)
class GroupSigmoid:
    """-log sigmoid(sum_i a_i r_i) with a_i = 2 A_i / n from the judge's scores A (DGPO)."""

    def __call__(self, seen: Measured) -> Tensor:
        weights = 2 * seen.scores["judge"] / seen.rewards.shape[1]
        return -F.logsigmoid((weights * seen.rewards).sum(1))


@dataclass(frozen=True)
class NFT:
    """(2 q - 1) T + (1 - 2 q + b) D with the label q: DiffusionNFT without its normaliser, up to terms without th."""

    b: float

    def __call__(self, seen: Measured) -> Tensor:
        q = seen.labels[:, 0]
        return (2 * q - 1) * seen.T[:, 0] + (1 - 2 * q + self.b) * seen.D[:, 0]


@dataclass(frozen=True)
class Anchored:
    """Another link's loss, and `pull` times the distance from an anchor that rewards need not be against."""

    link: Link
    pull: float

    def __call__(self, seen: Measured) -> Tensor:
        return self.link(seen) + self.pull * seen.drift_from["reference"].mean(1)


@dataclass(frozen=True)
class AWM:
    """-A clip(exp(lp - lp_old)) with lp = -strength T: the mean over a group of samples with advantages A."""

    strength: float
    clip: float

    def __call__(self, seen: Measured) -> Tensor:
        ratio = torch.exp(self.strength * (seen.R - seen.T))
        return -(seen.scores["judge"] * ratio.clamp(1 - self.clip, 1 + self.clip)).mean(1)


# The same, by the authors' formulas on predictions


@dataclass(frozen=True)
class Predictions:
    """Of every sample: the noise, the trainee's prediction, the reference's, and an older trainee's."""

    noise: dict[str, Tensor]
    th: dict[str, Tensor]
    ref: dict[str, Tensor]
    old: dict[str, Tensor]

    def T(self, name: str) -> Tensor:
        return mse(self.th[name], self.noise[name])

    def R(self, name: str) -> Tensor:
        return mse(self.ref[name], self.noise[name])


def mse(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().flatten(1).mean(1)


def predictions(group: Group, policies: Policies) -> Predictions:
    th, ref, old, noise = {}, {}, {}, {}
    for name, sample in group.samples.items():
        x_t = PATH.add_noise(sample.latent, sample.noise, TIMES)
        noise[name] = sample.noise
        th[name] = policies.nets["trainee"](x_t, TIMES, group.prompts["prompt"])
        ref[name] = policies.nets["reference"](x_t, TIMES, group.prompts["prompt"]).detach()
        old[name] = policies.nets["old"](x_t, TIMES, group.prompts["prompt"]).detach()
    return Predictions(noise, th, ref, old)


def dgpo(group: Group, seen: Predictions, beta: float) -> Tensor:
    """The authors' surrogate: a weight without gradient times the advantages' sum of errors."""
    names = list(group.samples)
    advantages = {name: group.samples[name].scores["judge"] for name in names}
    gains = sum(advantages[name] * beta * (seen.T(name) - seen.R(name)) for name in names) / len(names)
    weight = torch.sigmoid(gains).detach()
    return weight * beta / len(names) * sum(advantages[name] * seen.T(name) for name in names)


def nft(group: Group, seen: Predictions, b: float, old: Tensor) -> Tensor:
    """q mse(v+, y) / b + (1 - q) mse(v-, y) / b, v+ = b th + (1 - b) old, v- = (1 + b) old - b th."""
    q, th, y = group.samples["single"].label, seen.th["single"], seen.noise["single"]
    positive, negative = b * th + (1 - b) * old, (1 + b) * old - b * th
    return q * mse(positive, y) / b + (1 - q) * mse(negative, y) / b


def awm(group: Group, seen: Predictions, strength: float, clip: float, pull: float) -> Tensor:
    """Advantage-weighted matching: the clipped ratio of likelihoods to the old policy, and drift from the reference."""
    losses = []
    for name, sample in group.samples.items():
        log_likelihood = -strength * seen.T(name)
        log_old = -strength * mse(seen.old[name], seen.noise[name])
        ratio = (log_likelihood - log_old).exp()
        gain = sample.scores["judge"] * ratio.clamp(1 - clip, 1 + clip)
        losses.append(-gain + pull * mse(seen.th[name], seen.ref[name]))
    return torch.stack(losses).mean(0)


# And that they are one


@pytest.fixture(params=[False, True], ids=["whole", "split"])
def split(request: pytest.FixtureRequest) -> bool:
    return request.param


def assert_one(objective: Objective, group: Group, formula: Callable[[Predictions], Tensor], split: bool,
               same_value: bool = True) -> None:  # fmt: skip
    """The objective's loss and gradient are the formula's."""
    policies = near_the_reference(0.02)
    outcome = evaluate(replace(objective, split=split), group, policies)
    ours = gradient(outcome, policies.nets["trainee"])
    loss = formula(predictions(group, policies))
    theirs = list(torch.autograd.grad(loss.sum(), list(policies.nets["trainee"].parameters())))
    if same_value:
        torch.testing.assert_close(outcome.loss.detach(), loss.detach(), rtol=1e-12, atol=1e-14)
    assert relative_error(ours, theirs) < 1e-11


def singles(likes: list[float]) -> Group:
    return a_group("single", labels={"single": torch.tensor(likes)}, dtype=torch.float64)


@pytest.mark.parametrize("num", [2, 5])
def test_dgpo_is_a_signed_link_of_a_group_with_scores(num: int, split: bool) -> None:
    """Its surrogate's value is another one; the gradient is that of -log sigmoid of the signed sum."""
    scores = torch.randn(B, num, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    names = [str(place) for place in range(num)]
    group, beta = a_group(*names, scores=scores, dtype=torch.float64), 3.0
    objective = Objective(tuple(Side(name) for name in names), GroupSigmoid(), beta)
    assert_one(objective, group, lambda seen: dgpo(group, seen, beta), split, same_value=False)


def test_nft_is_a_link_of_errors_and_drift(split: bool) -> None:
    group = singles([1.0, 0.25, 0.6])
    objective = Objective((Side("single"),), NFT(0.8), 2.0)
    formula = lambda seen: nft(group, seen, 0.8, seen.ref["single"])  # noqa: E731
    assert_one(objective, group, formula, split, same_value=False)


@pytest.mark.parametrize("pull", [0.05, 2.0])
def test_nft_stays_near_a_reference_that_its_rewards_are_not_against(pull: float, split: bool) -> None:
    """Rewards are against a policy that follows the trainee, the drift penalty against the one where it began."""
    group = singles([1.0, 0.25, 0.6])
    objective = Objective((Side("single"),), Anchored(NFT(0.8), pull), 2.0, reference="old", anchors=("reference",),
                          moving={"old": Average(0.5, growth=0.001)})  # fmt: skip
    assert objective.plan().keys() == {"old", "reference", "trainee"}

    def formula(seen: Predictions) -> Tensor:
        drift = mse(seen.th["single"], seen.ref["single"])
        return nft(group, seen, 0.8, seen.old["single"]) + pull * drift

    assert_one(objective, group, formula, split, same_value=False)


@pytest.mark.parametrize("pull", [0.05, 2.0])
def test_awm_is_a_clipped_ratio_with_an_anchor(pull: float, split: bool) -> None:
    scores = torch.randn(B, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    group = a_group("0", "1", "2", scores=scores, dtype=torch.float64)
    link = Anchored(AWM(strength=0.4, clip=0.5), pull)
    sides = (Side("0"), Side("1"), Side("2"))
    objective = Objective(sides, link, 2.0, reference="old", anchors=("reference",))
    seen = evaluate(objective, group, near_the_reference(0.02)).measured
    free = ((0.4 * (seen.R - seen.T)).exp() - 1).abs() < 0.5
    assert free.any() and not free.all(), "some ratios are clipped, and some are not"
    assert_one(objective, group, lambda seen: awm(group, seen, 0.4, 0.5, pull), split)


def test_an_anchor_that_is_the_reference_is_asked_once(split: bool) -> None:
    group, policies = a_group(dtype=torch.float64), near_the_reference(0.02)
    objective = Objective(PAIR, Anchored(Sigmoid(), 0.1), 3.0, anchors=("reference",), split=split)
    outcome = evaluate(objective, group, policies)
    assert [call for call in policies.calls if call[0] == "reference"] == [("reference", 2 * B, False)]
    torch.testing.assert_close(outcome.measured.drift_from["reference"], outcome.measured.D, rtol=0, atol=0)


def test_a_trained_policy_anchors_nothing() -> None:
    with pytest.raises(ValueError, match="anchor trainee is trained"):
        Objective(PAIR, Sigmoid(), 3.0, anchors=("trainee",))
