"""Methods of a prompt's own samples against their authors' losses, written out on the predictions themselves.

In double precision the two have one gradient, taken at once or one side after the other, in groups of several sizes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from comparing import TIMES, B, Policies, a_group, gradient, measured, near_the_reference, relative_error
from torch import Tensor

from contrapose.core.group import Group
from contrapose.core.moving import Average
from contrapose.core.objective import Objective, Outcome
from contrapose.core.path import DiffusionPath
from contrapose.errors import UserError
from contrapose.methods import AWM, CRD, DGPO, NFT
from contrapose.methods.judged_groups import JudgedGroups, OldPolicy
from contrapose.methods.nft import by_size
from contrapose.methods.own_samples import OwnSamples

LIMIT = 1.1  # so low that some advantages of larger groups reach it
STAYS = OldPolicy(None)
PATH = DiffusionPath(torch.linspace(0.999, 0.3, 1000, dtype=torch.float64))


@dataclass(frozen=True)
class Predictions:
    """Of a group's samples [b, n, d]: the truth and what each policy says, in one space; advantages [b, n]; level."""

    truth: Tensor
    th: Tensor
    ref: Tensor
    old: Tensor
    advantages: Tensor
    level: Tensor


def mse(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().mean(2)


def seen(group: Group, policies: Policies, space: str) -> Predictions:
    """Everything that the authors' losses are made of, by the networks themselves."""
    values: dict[str, list[Tensor]] = {"truth": [], "trainee": [], "reference": [], "old": []}
    for sample in group.samples.values():
        x_t = PATH.add_noise(sample.latent, sample.noise, TIMES)
        a, s = (value.view(-1, 1, 1, 1) for value in PATH.coefficients(TIMES))
        answers = {name: policies.nets[name](x_t, TIMES, group.prompts["prompt"]) for name in list(values)[1:]}
        for name, eps in (answers | {"truth": sample.noise}).items():
            in_space = eps if space == "eps" else (x_t - s * eps) / a
            values[name].append(in_space.flatten(1))
    scores = torch.stack([sample.scores["judge"] for sample in group.samples.values()], 1)
    z = (scores - scores.mean(1, keepdim=True)) / (scores.std(1, unbiased=False, keepdim=True) + 1e-4)
    stacked = {name: torch.stack(rows, 1) for name, rows in values.items()}
    return Predictions(
        stacked["truth"], stacked["trainee"], stacked["reference"].detach(), stacked["old"].detach(),
        z.clamp(-LIMIT, LIMIT), TIMES[:, None] / 999,
    )  # fmt: skip


# The losses as the authors' codes have them


def dgpo(method: DGPO, p: Predictions) -> Tensor:
    """A sigmoid as a weight without gradient, times advantages and errors; what has gone too far has no gradient."""
    error = mse(p.truth, p.th)
    ratio = torch.exp(mse(p.truth, p.old) - error)
    up = (p.advantages > 0) & (ratio > 1 + method.ratio_clip)
    down = (p.advantages <= 0) & (ratio < 1 - method.ratio_clip)
    clipped = torch.where(up | down, error.detach(), error)
    against = mse(p.truth, p.old if method.against == "old" else p.ref)
    gain = (p.advantages * method.beta * (error.detach() - against)).mean(1, keepdim=True)
    return (gain.sigmoid() * p.advantages * clipped).mean(1) + method.pull * mse(p.th, p.ref).mean(1)


def nft(method: NFT, p: Predictions) -> Tensor:
    """The two policies' predictions, each error over the size of its residual, which has no gradient."""
    b, q = method.strength, (p.advantages / LIMIT) / 2 + 0.5
    losses = []
    for share, prediction in ((q, b * p.th + (1 - b) * p.old), (1 - q, (1 + b) * p.old - b * p.th)):
        error = mse(p.truth, prediction)
        size = math.sqrt(2 / math.pi) * error.detach().sqrt()
        losses.append(share * error / size / b)
    return (sum(losses) * LIMIT).mean(1) + method.pull * mse(p.th, p.ref).mean(1)


def awm(method: AWM, p: Predictions) -> Tensor:
    """Policy gradients with a power of the error, at a noise level, for the likelihood."""
    power, least = method.error_power, 1e-10

    def likelihood(prediction: Tensor) -> Tensor:
        error = mse(p.truth, prediction)
        return -(((error + least) ** power - least**power) * p.level**method.level_power / power)

    ratio = torch.exp(likelihood(p.th) - likelihood(p.old))
    gain = p.advantages / LIMIT
    clipped = ratio.clamp(1 - method.ratio_clip, 1 + method.ratio_clip)
    policy = torch.maximum(-gain * ratio, -gain * clipped)
    return (policy + method.pull * mse(p.th, p.ref) + method.old_pull * mse(p.th, p.old)).mean(1)


def crd(method: CRD, p: Predictions) -> Tensor:
    """Squares of what rewards differ otherwise than advantages, and a penalty that grows with them (Flow-Factory)."""

    def over_size(prediction: Tensor) -> Tensor:
        error = mse(p.truth, prediction)
        return error / (math.sqrt(2 / math.pi) * error.detach().sqrt())

    reward = over_size(p.old) - over_size(p.th)
    q = (p.advantages / LIMIT) / 2 + 0.5
    centred = reward - reward.mean(1, keepdim=True).detach()
    fit = (method.beta * centred - (q - q.mean(1, keepdim=True))).square()
    least = 1e-4 / method.pull
    penalty = method.pull * (least + q * (1 - least)) * mse(p.th, p.ref)
    return (fit * LIMIT / method.beta + penalty).mean(1)


# method, the authors' loss, the space it is measured in, and whether the loss is the same number
WITNESSES: list[tuple[DGPO | NFT | AWM | CRD, Callable[..., Tensor], str, bool]] = [
    (DGPO(beta=3.0, ratio_clip=0.1, pull=0.3), dgpo, "eps", False),
    (DGPO(beta=3.0, ratio_clip=0.1, pull=0.3, against="old"), dgpo, "eps", False),
    (DGPO(beta=20.0, ratio_clip=0.002, space="x0"), dgpo, "x0", False),
    (NFT(pull=0.3), nft, "x0", True),
    (NFT(strength=0.1, space=None), nft, "eps", True),
    (AWM(ratio_clip=0.01, pull=0.3), awm, "eps", True),
    (AWM(error_power=1.0, level_power=0.0, ratio_clip=0.3, old_pull=0.2), awm, "eps", True),
    (CRD(), crd, "eps", True),
    (CRD(beta=3.0, pull=0.3, space="x0"), crd, "x0", True),
    (AWM(error_power=0.5, level_power=2.0, ratio_clip=0.005), awm, "eps", True),
]
each_witness = pytest.mark.parametrize(
    ("method", "formula", "space", "same_value"), WITNESSES, ids=[repr(row[0]) for row in WITNESSES]
)


def in_groups_of(method: DGPO | NFT | AWM | CRD, num: int) -> DGPO | NFT | AWM | CRD:
    return replace(method, groups=JudgedGroups(OwnSamples(num), True, "judge", LIMIT))


def a_judged_group(num: int) -> Group:
    scores = 20 + torch.randn(B, num, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return a_group(*(f"rank {place}" for place in range(1, num + 1)), scores=scores, dtype=torch.float64)


def policies_apart() -> Policies:
    """A trainee and an old policy at some distance from the reference, and from each other."""
    policies = near_the_reference(0.1)
    with torch.no_grad():
        nets = (policies.nets[name].parameters() for name in ("old", "reference"))
        for old, reference in zip(*nets, strict=True):
            old.copy_(reference + 0.1 * (old - reference))
    return policies


def evaluate(objective: Objective, group: Group, policies: Policies) -> Outcome:
    return objective(group, PATH, "eps", policies)


@each_witness
@pytest.mark.parametrize("split", [False, True], ids=["whole", "split"])
@pytest.mark.parametrize("num", [2, 3, 5])
def test_the_authors_loss(method, formula, space, same_value, split: bool, num: int) -> None:
    method, group, policies = in_groups_of(method, num), a_judged_group(num), policies_apart()
    outcome = evaluate(replace(method.objective(), split=split), group, policies)
    ours = gradient(outcome, policies.nets["trainee"])
    loss = formula(method, seen(group, policies, space))
    theirs = list(torch.autograd.grad(loss.sum(), list(policies.nets["trainee"].parameters())))
    assert relative_error(ours, theirs) < 1e-12
    if same_value:
        torch.testing.assert_close(outcome.loss.detach(), loss.detach(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("method", [method for method, formula, *_ in WITNESSES if formula in (dgpo, awm)], ids=repr)
def test_of_these_samples_some_are_clipped(method: DGPO | AWM) -> None:
    """And some are not, or the losses above would show nothing of the clip."""

    def slopes(ratio_clip: float) -> list[Tensor]:
        policies = policies_apart()
        objective = replace(in_groups_of(method, 5), ratio_clip=ratio_clip).objective()
        return gradient(evaluate(objective, a_judged_group(5), policies), policies.nets["trainee"])

    for never_or_at_once in (1e6, 1e-9):
        assert relative_error(slopes(never_or_at_once), slopes(method.ratio_clip)) > 1e-4


# What the three share


def test_advantages_are_deviations_from_the_groups_mean() -> None:
    scores = torch.tensor([[1.0, 2.0, 3.0], [5.0, 5.0, 5.0], [0.0, 0.0, 90.0]], dtype=torch.float64)
    labels = torch.tensor([[1.0, 0.5, 0.0]] * 3, dtype=torch.float64)
    judged = measured(torch.zeros(3, 3, dtype=torch.float64), labels, scores={"judge": scores})
    groups = JudgedGroups(OwnSamples(3), True, "judge", 1.3)
    root = math.sqrt(1.5)
    expected = torch.tensor([[-root, 0.0, root], [0.0, 0.0, 0.0], [-root / math.sqrt(3), -root / math.sqrt(3), 1.3]])
    torch.testing.assert_close(groups.advantages(judged), expected.double(), rtol=2e-4, atol=0)
    assert groups.shares(judged)[:, 1].tolist() == pytest.approx([0.5, 0.5, 0.5 - root / math.sqrt(3) / 2.6], rel=1e-3)
    by_labels = replace(groups, judge=None).advantages(judged)
    torch.testing.assert_close(by_labels[0], expected[0].double().flip(0), rtol=3e-4, atol=0)


@pytest.mark.parametrize("cls", [DGPO, NFT, AWM, CRD])
def test_where_all_samples_are_alike_nothing_is_learnt_but_to_stay(cls: type[DGPO | NFT | AWM | CRD]) -> None:
    """At the start, where no penalty pulls; NFT's two halves are then a reflection of each other."""
    group = a_group("rank 1", "rank 2", "rank 3", scores=torch.full((B, 3), 7.0), dtype=torch.float64)
    policies = near_the_reference(0.0)
    method = in_groups_of(cls(old=STAYS), 3)
    slopes = gradient(evaluate(method.objective(), group, policies), policies.nets["trainee"])
    assert max(float(slope.abs().max()) for slope in slopes) < 1e-12


@pytest.mark.parametrize("cls", [DGPO, NFT, AWM, CRD])
def test_an_old_policy_that_stays_is_the_reference(cls: type[DGPO | NFT | AWM | CRD]) -> None:
    """Asked once; as the policy that drew stored groups is asked."""
    moving, staying = (cls(old=old).objective() for old in (OldPolicy(0.5, 0.01, 7), STAYS))
    assert moving.moving["old"] == Average(0.5, 0.01, 7) and set(moving.plan()) == {"old", "reference", "trainee"}
    assert "old" not in staying.moving and set(staying.plan()) == {"reference", "trainee"}


def test_a_size_is_the_mean_of_absolute_values_where_residuals_are_normal() -> None:
    """Which is what the authors divide by; a hundredth is the error of so many numbers."""
    residuals = 3 * torch.randn(1, 200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    error = residuals.square().mean(1, keepdim=True)
    torch.testing.assert_close(by_size(error), error / residuals.abs().mean(1, keepdim=True), rtol=1e-2, atol=0)
    assert by_size(torch.zeros(1, 1)).item() == 0


def test_a_delay_without_growth_is_refused() -> None:
    for settings in ({"old_growth": None}, {"old_decay": None}):
        with pytest.raises(UserError, match="old_delay 5: only a share that grows is delayed"):
            OldPolicy(**{"old_delay": 5} | settings)


@pytest.mark.parametrize("cls", [DGPO, NFT, AWM, CRD])
def test_a_growth_of_what_stays_is_refused(cls: type[DGPO | NFT | AWM | CRD]) -> None:
    """But not where nobody has set it: each method has a growth of its own."""
    own = cls().old.old_growth
    for unset in (OldPolicy(None), OldPolicy(None, own), OldPolicy(None, None)):
        assert cls(old=unset).old.policy == "reference"
    with pytest.raises(UserError, match=r"old_growth 0\.25: unused with old_decay None"):
        cls(old=OldPolicy(None, 0.25))
