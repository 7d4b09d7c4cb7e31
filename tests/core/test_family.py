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
from contrapose.core.links import IPO, Guarded, Sigmoid, weighted_sum
from contrapose.core.measured import Measured
from contrapose.core.objective import Objective, Side
from contrapose.core.running import Running, RunningNumbers

PAIR = (Side("winner"), Side("loser"))


# The links


@dataclass(frozen=True)
class DSPO:
    """mse(th_w - y - k (th_w - ref_w)) = (1 - k) T + k R - k (1 - k) D of the winner, k = B (1 - sigmoid(m))."""

    strength: float

    def __call__(self, seen: Measured) -> Tensor:
        k = self.strength * (1 - torch.sigmoid(weighted_sum(seen.rewards, (1.0, -1.0))))
        return (1 - k) * seen.T[:, 0] + k * seen.R[:, 0] - k * (1 - k) * seen.D[:, 0]


@dataclass(frozen=True)
class SDPO:
    """The share of the loser's slope that does not make the winner worse, a pair at a time."""

    mu: float

    def __call__(self, seen: Measured) -> Tensor:
        across = seen.overlap[:, 0, 1]
        share = ((1 - self.mu) * seen.overlap[:, 0, 0] / across).clamp(0, 1)
        kept = torch.where(across > 0, share, torch.ones_like(share))
        return torch.stack([torch.ones_like(kept), kept], 1)


@dataclass(frozen=True)
class KTO:
    """1 - sigmoid(s (r - max(z, 0))), s being 1 for a like and -1 for a dislike, z the running mean of rewards."""

    def __call__(self, seen: Measured) -> Tensor:
        sign = 2 * seen.labels[:, 0] - 1
        baseline = max(seen.running["baseline"], 0.0)
        return 1 - torch.sigmoid(sign * (seen.rewards[:, 0] - baseline))


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


# The same, by the authors' formulas on predictions


@dataclass(frozen=True)
class Predictions:
    """Of every sample: the noise, the trainee's prediction and the reference's."""

    noise: dict[str, Tensor]
    th: dict[str, Tensor]
    ref: dict[str, Tensor]

    def T(self, name: str) -> Tensor:
        return mse(self.th[name], self.noise[name])

    def R(self, name: str) -> Tensor:
        return mse(self.ref[name], self.noise[name])

    def inside(self, beta: float) -> Tensor:
        """-(beta / 2) ((T_w - T_l) - (R_w - R_l))"""
        of_trainee = self.T("winner") - self.T("loser")
        of_reference = self.R("winner") - self.R("loser")
        return -0.5 * beta * (of_trainee - of_reference)


def mse(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().flatten(1).mean(1)


def predictions(group: Group, policies: Policies) -> Predictions:
    th, ref, noise = {}, {}, {}
    for name, sample in group.samples.items():
        x_t = PATH.add_noise(sample.latent, sample.noise, TIMES)
        noise[name] = sample.noise
        th[name] = policies.nets["trainee"](x_t, TIMES, group.prompts["prompt"])
        ref[name] = policies.nets["reference"](x_t, TIMES, group.prompts["prompt"]).detach()
    return Predictions(noise, th, ref)


def dspo(group: Group, seen: Predictions, beta: float, strength: float) -> Tensor:
    k = strength * (1 - torch.sigmoid(seen.inside(beta))).view(-1, 1, 1, 1)
    th, ref, noise = (values["winner"] for values in (seen.th, seen.ref, seen.noise))
    return ((th - noise) - k * (th - ref)).square().flatten(1).mean(1)


def sdpo(seen: Predictions, beta: float, mu: float, link: Callable[[Tensor], Tensor]) -> Tensor:
    """The loser's error keeps its value, and of its gradient what the angle of both errors' gradients allows."""
    of_winner = torch.autograd.grad(seen.T("winner").sum(), seen.th["winner"], retain_graph=True)[0].flatten(1)
    of_loser = torch.autograd.grad(seen.T("loser").sum(), seen.th["loser"], retain_graph=True)[0].flatten(1)
    across = (of_winner * of_loser).sum(1)
    share = ((1 - mu) * of_winner.square().sum(1) / across).clamp(0, 1)
    share = torch.where(across > 0, share, torch.ones_like(share))
    assert ((share > 0) & (share < 1)).any(), "or nothing is guarded"
    loser = seen.T("loser")
    loser = loser.detach() + share * (loser - loser.detach())
    of_reference = seen.R("winner") - seen.R("loser")
    return link(-0.5 * beta * ((seen.T("winner") - loser) - of_reference))


def kto(group: Group, seen: Predictions, strength: float, baseline: float) -> Tensor:
    """g = R - T, without a half, so that the paper's strength is half of our beta; baseline in units of g."""
    g = seen.R("single") - seen.T("single")
    sign = torch.where(group.samples["single"].label == 1, 1.0, -1.0)
    return 1 - torch.sigmoid(sign * strength * (g - max(baseline, 0.0)))


def dgpo(group: Group, seen: Predictions, beta: float) -> Tensor:
    """The authors' surrogate: a weight without gradient times the advantages' sum of errors."""
    names = list(group.samples)
    advantages = {name: group.samples[name].scores["judge"] for name in names}
    gains = sum(advantages[name] * beta * (seen.T(name) - seen.R(name)) for name in names) / len(names)
    weight = torch.sigmoid(gains).detach()
    return weight * beta / len(names) * sum(advantages[name] * seen.T(name) for name in names)


def nft(group: Group, seen: Predictions, b: float) -> Tensor:
    """q mse(v+, y) / b + (1 - q) mse(v-, y) / b, v+ = b th + (1 - b) old, v- = (1 + b) old - b th; old = reference."""
    q, th, old, y = group.samples["single"].label, seen.th["single"], seen.ref["single"], seen.noise["single"]
    positive, negative = b * th + (1 - b) * old, (1 + b) * old - b * th
    return q * mse(positive, y) / b + (1 - q) * mse(negative, y) / b


# And that they are one


@pytest.fixture(params=[False, True], ids=["whole", "split"])
def split(request: pytest.FixtureRequest) -> bool:
    return request.param


def assert_one(objective: Objective, group: Group, formula: Callable[[Predictions], Tensor], split: bool,
               same_value: bool = True, **running: float) -> None:  # fmt: skip
    """The objective's loss and gradient are the formula's."""
    policies = near_the_reference(0.02)
    outcome = evaluate(replace(objective, split=split), group, policies, **running)
    ours = gradient(outcome, policies.nets["trainee"])
    loss = formula(predictions(group, policies))
    theirs = list(torch.autograd.grad(loss.sum(), list(policies.nets["trainee"].parameters())))
    if same_value:
        torch.testing.assert_close(outcome.loss.detach(), loss.detach(), rtol=1e-12, atol=1e-14)
    assert relative_error(ours, theirs) < 1e-11


def singles(likes: list[float]) -> Group:
    return a_group("single", labels={"single": torch.tensor(likes)}, dtype=torch.float64)


@pytest.mark.parametrize("strength", [0.001, 0.7])
def test_dspo_is_a_link(strength: float, split: bool) -> None:
    """Its factor is not detached; the link's slopes in r, T and D carry it."""
    group, beta = a_group(dtype=torch.float64), 3.0
    objective = Objective(PAIR, DSPO(strength), beta)
    assert_one(objective, group, lambda seen: dspo(group, seen, beta, strength), split)


@pytest.mark.parametrize("mu", [0.1, 0.6])
@pytest.mark.parametrize(
    ("link", "formula"),
    [(Sigmoid(), lambda m: -F.logsigmoid(m)), (IPO(), lambda m: (m - 0.5).square())],
    ids=["sigmoid", "ipo"],
)
def test_sdpo_is_a_guard_around_any_link(link, formula, mu: float, split: bool) -> None:
    """What the guard reads, the overlap of both sides, is known from the first pass when the gradient is split."""
    random = torch.Generator().manual_seed(2)
    group = a_group(dtype=torch.float64)
    near = 0.3 * torch.randn(group.samples["loser"].latent.shape, generator=random).double()
    group.samples["loser"] = replace(group.samples["loser"], latent=group.samples["winner"].latent * 1.5 + near)
    beta = 3.0
    objective = Objective(PAIR, Guarded(link, SDPO(mu)), beta)
    assert_one(objective, group, lambda seen: sdpo(seen, beta, mu, formula), split)


@pytest.mark.parametrize("baseline", [-0.4, 0.0, 0.3])
def test_kto_is_a_link_of_singles_against_a_running_baseline(baseline: float, split: bool) -> None:
    group, strength = singles([1.0, 0.0, 1.0]), 2.5
    objective = Objective((Side("single"),), KTO(), 2 * strength, running={"baseline": rewards_mean()})
    formula = lambda seen: kto(group, seen, strength, baseline)  # noqa: E731
    assert_one(objective, group, formula, split, baseline=strength * baseline)


def test_the_baseline_follows_the_rewards() -> None:
    """Before the first step it is zero; then a tenth of the way to each step's mean."""
    group, policies = singles([1.0, 0.0, 1.0]), near_the_reference(0.5)
    objective = Objective((Side("single"),), KTO(), 5.0, running={"baseline": rewards_mean()})
    numbers, expected = RunningNumbers(objective.running), 0.0
    for _ in range(3):
        outcome = evaluate(objective, group, policies, **numbers.values)
        assert outcome.measured.running == {"baseline": pytest.approx(expected)}
        mean = outcome.followed["baseline"].mean().item()
        assert mean == pytest.approx(outcome.measured.rewards.mean().item())
        numbers.update({"baseline": mean})
        expected = 0.9 * expected + 0.1 * mean
    assert abs(expected) > 1e-3


def rewards_mean() -> Running:
    return Running(of=lambda seen: seen.rewards.mean(1), decay=0.9)


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
    assert_one(objective, group, lambda seen: nft(group, seen, 0.8), split, same_value=False)
