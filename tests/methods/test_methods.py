"""Every method against its paper's formula, written out here, and against its count of predictions.

A new method is tested by a line in METHODS.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from contrapose.core.group import Group, Pick
from contrapose.core.links import IPO, Hinge, Sigmoid
from contrapose.core.path import DiffusionPath
from contrapose.errors import UserError
from contrapose.methods import (
    CHATS,
    DDSPO,
    METHODS,
    SFT,
    DataDrivenDDSPO,
    DiffusionDPO,
    DiffusionDRO,
    Method,
    RealAlign,
    before,
    name_of,
)

BETA, B, D = 6.0, 4, 12  # B pairs of D numbers each
ABAR = torch.linspace(0.99, 0.02, 1000)
RECORDS = {
    name: torch.randn(B, D, generator=torch.Generator().manual_seed(i)) for i, name in enumerate(("winner", "loser"))
} | {
    name: torch.randn(B, D, generator=torch.Generator().manual_seed(7 + i))
    for i, name in enumerate(("prompt", "degraded", "own x0", "own eps"))
}
NOISE = torch.randn(B, D, generator=torch.Generator().manual_seed(21))
T = torch.tensor([5, 300, 600, 990])
OTHER = [1, 2, 3, 0]


def network(policy: str, x_t: Tensor, t: Tensor, prompt: Tensor) -> Tensor:
    strength = {"reference": 0.5, "trainee": 0.9, "positive": 0.7, "negative": 0.8}.get(policy) or len(policy) / 10
    return torch.tanh(strength * x_t + prompt) + t[:, None] / 1000


def error(policy: str, i: int, x0: Tensor, target: Tensor, noise: Tensor = NOISE) -> float:
    """mse of one pair's prediction under its own prompt, by plain loops."""
    prediction = noised_prediction(policy, i, x0, RECORDS["prompt"][i], noise)
    return sum((float(a) - float(b)) ** 2 for a, b in zip(target, prediction, strict=True)) / D


def noised_prediction(policy: str, i: int, x0: Tensor, prompt: Tensor, noise: Tensor = NOISE) -> Tensor:
    abar = float(ABAR[T[i]])
    x_t = math.sqrt(abar) * x0 + math.sqrt(1 - abar) * noise[i]
    return network(policy, x_t[None], T[i : i + 1], prompt[None])[0]


def margin(i: int, x_w: Tensor, x_l: Tensor, e_w: Tensor, e_l: Tensor) -> float:
    """-(beta / 2) [ (mse_w - mse_l)_theta - (mse_w - mse_l)_ref ]"""
    of_trainee = error("trainee", i, x_w, e_w) - error("trainee", i, x_l, e_l)
    of_reference = error("reference", i, x_w, e_w) - error("reference", i, x_l, e_l)
    return -0.5 * BETA * (of_trainee - of_reference)


def dpo_margin(i: int) -> float:
    return margin(i, RECORDS["winner"][i], RECORDS["loser"][i], NOISE[i], NOISE[i])


def ddspo_margin(i: int, x_l: Tensor, degraded: Tensor) -> float:
    x_w = RECORDS["winner"][i]
    e_w = noised_prediction("reference", i, x_w, RECORDS["prompt"][i])
    return margin(i, x_w, x_l, e_w, noised_prediction("reference", i, x_l, degraded))


def paired(i: int) -> float:
    return ddspo_margin(i, RECORDS["loser"][i], RECORDS["degraded"][i])


def not_paired(i: int) -> float:
    return ddspo_margin(i, RECORDS["winner"][OTHER[i]], RECORDS["degraded"][i])


def random_positive(i: int) -> float:
    """Another record's winner with its own prompt, strictly paired (Sec. 4.4)."""
    return ddspo_margin(i, RECORDS["winner"][OTHER[i]], RECORDS["prompt"][OTHER[i]])


def data_driven(i: int) -> float:
    x_w, x_l, c = RECORDS["winner"][i], RECORDS["loser"][i], RECORDS["prompt"][i]
    return margin(i, x_w, x_l, noised_prediction("winner", i, x_w, c), noised_prediction("loser", i, x_l, c))


def dro(i: int, m: float, renoised: bool) -> float:
    """max(0, m + [mse(n, theta(xr)) - mse(n, ref(xr))] - [mse(e_pol, theta(xp)) - mse(e_pol, ref(xp))])"""
    x_r, x_p, noise = RECORDS["winner"][i], RECORDS["own x0"][i], NOISE if renoised else RECORDS["own eps"]
    e_pol = noised_prediction("lagged", i, x_p, RECORDS["prompt"][i]) if renoised else noise[i]
    real = error("trainee", i, x_r, NOISE[i]) - error("reference", i, x_r, NOISE[i])
    own = error("trainee", i, x_p, e_pol, noise) - error("reference", i, x_p, e_pol, noise)
    return max(0.0, m + real - own)


def chats(i: int, paper_beta: float) -> float:
    """-B [ (mse_w^+ - mse_w^ref) + (mse_l^- - mse_l^ref) ], without the half of the DPO family"""
    gains = [
        error(policy, i, RECORDS[side][i], NOISE[i]) - error("reference", i, RECORDS[side][i], NOISE[i])
        for policy, side in (("positive", "winner"), ("negative", "loser"))
    ]
    return -paper_beta * sum(gains)


def nll(m: float) -> float:
    return -math.log(1 / (1 + math.exp(-m)))


# method, loss of pair i by the paper, rows a pair of trainee and of reference
METHOD_TABLE = [
    (DDSPO(beta=BETA), lambda i: nll(paired(i)), 2, 3),
    (DDSPO(beta=BETA, losers="not-paired"), lambda i: nll(not_paired(i)), 2, 3),
    (DDSPO(beta=BETA, losers="random-positive"), lambda i: nll(random_positive(i)), 2, 3),
    (DDSPO(beta=BETA, weighting="linear"), lambda i: nll(paired(i)) * float(T[i]) / 999, 2, 3),
    (DDSPO(beta=BETA, link=Hinge(margin=0.4)), lambda i: max(0.0, 0.4 - paired(i)), 2, 3),
    (DiffusionDPO(beta=BETA), lambda i: nll(dpo_margin(i)), 2, 2),
    (DiffusionDPO(beta=BETA, link=IPO()), lambda i: (dpo_margin(i) - 0.5) ** 2, 2, 2),
    (
        DiffusionDPO(beta=BETA, link=Sigmoid(smoothing=0.2)),
        lambda i: 0.8 * nll(dpo_margin(i)) + 0.2 * nll(-dpo_margin(i)),
        2,
        2,
    ),
    (SFT(), lambda i: error("trainee", i, RECORDS["winner"][i], NOISE[i]), 1, 0),
    (CHATS(beta=2 * BETA), lambda i: nll(chats(i, paper_beta=BETA)), 2, 2),
    (DataDrivenDDSPO(beta=BETA), lambda i: nll(data_driven(i)), 2, 2),
    (DiffusionDRO(real_margin=0.3), lambda i: dro(i, 0.3, False), 2, 2),
    (DiffusionDRO(real_margin=0.3, samples="renoised"), lambda i: dro(i, 0.3, True), 2, 2),
    (RealAlign(beta=BETA), lambda i: nll(dpo_margin(i)), 2, 2),
    (SFT(side="loser"), lambda i: error("trainee", i, RECORDS["loser"][i], NOISE[i]), 1, 0),
]
each_method = pytest.mark.parametrize(
    ("method", "formula", "num_trainee", "num_reference"), METHOD_TABLE, ids=[repr(row[0]) for row in METHOD_TABLE]
)


def evaluate(method: Method):
    """The method's loss on the records as its own composition asks, with an account of the calls."""
    composition, objective = method.composition(), method.objective()
    rows = {"own": list(range(B)), "other": OTHER}

    def field(pick: Pick) -> Tensor:
        return RECORDS[pick.field][rows[pick.whose]]

    labels = torch.zeros(B, len(objective.samples))
    labels[:, 0] = 1
    latents, noise = [field(pick) for pick in composition.latents], NOISE
    if composition.on_policy:
        latents.append(RECORDS["own x0"])
        noise = NOISE if composition.on_policy.renoised else torch.stack([NOISE, RECORDS["own eps"]], 1)
    group = Group(
        torch.stack(latents, 1),
        {slot: {"embedding": field(pick)} for slot, pick in composition.prompts.items()},
        labels,
    )
    calls: list[tuple[str, int]] = []

    def predict(policy, x_t, t, condition):
        calls.append((policy, len(x_t)))
        return network(policy, x_t, t, condition["embedding"])

    return objective(group, T, noise, DiffusionPath(ABAR), "eps", predict), calls


@each_method
def test_loss_is_the_papers_formula(method, formula, num_trainee, num_reference):
    outcome, _ = evaluate(method)
    assert outcome.loss.tolist() == pytest.approx([formula(i) for i in range(B)], rel=1e-4, abs=1e-6)


@each_method
def test_predictions_are_asked_for_once_in_one_stacked_call_a_policy(method, formula, num_trainee, num_reference):
    _, calls = evaluate(method)
    trained = method.objective().trained
    expected = [("reference", num_reference * B)] if num_reference else []
    expected = sorted([*expected, *((policy, B) for policy in method.objective().frozen)])
    assert calls == [*expected, *((policy, num_trainee * B // len(trained)) for policy in trained)]


@each_method
def test_composition_offers_what_the_objective_looks_at(method, formula, num_trainee, num_reference):
    composition, plan = method.composition(), method.objective().plan()
    rows = [row for rows in plan.values() for row in rows]
    assert {row.sample for row in rows} == set(range(len(composition.latents) + bool(composition.on_policy)))
    assert {row.slot for row in rows} == set(composition.prompts)


@each_method
def test_methods_are_values(method, formula, num_trainee, num_reference):
    assert hash(method) is not None
    assert type(method)(**vars(method)) == method


def test_the_table_of_tests_covers_the_registry():
    assert {type(row[0]) for row in METHOD_TABLE} == set(METHODS.values())


def test_losers_made_without_loser_images_need_none():
    assert "loser" not in DDSPO(losers="not-paired").composition().fields
    assert DDSPO(losers="random-positive").composition().fields == {"winner", "prompt"}
    assert SFT().composition().fields == {"winner", "prompt"}


def test_published_strengths():
    assert (DDSPO().beta, DiffusionDPO().beta) == (16000.0, 5000.0)
    assert (DataDrivenDDSPO().beta, RealAlign().beta, DiffusionDRO().real_margin) == (8000.0, 2000.0, 1e-3)
    assert CHATS().beta == 2 * 1000.0, "its paper's loss has no factor of a half"


def test_each_policy_of_chats_learns_from_its_own_side():
    """A step up in either reward is a step down in the loss, whoever makes it."""
    outcome, _ = evaluate(CHATS(beta=BETA))
    assert outcome.rewards.shape == (B, 2)
    composition = CHATS(dropout=0.3).composition()
    assert composition.dropout == {"dropped": 0.3} and composition.fields == {"winner", "loser", "prompt"}


def test_what_a_method_needs_first():
    assert before(RealAlign()) == {"start": DiffusionDRO()}
    assert before(DataDrivenDDSPO()) == {"winner": SFT("winner"), "loser": SFT("loser")}
    assert set(before(DataDrivenDDSPO())) == set(DataDrivenDDSPO().objective().frozen)
    assert before(DDSPO()) == {}


def test_every_method_has_one_name():
    assert {name_of(method) for method, *_ in METHOD_TABLE} == set(METHODS)


@pytest.mark.parametrize("settings", [{"states": 0}, {"sync_every": -1}, {"states": 30}])
def test_settings_of_rollouts_that_make_no_sense_are_refused(settings):
    with pytest.raises(UserError, match=next(iter(settings))):
        DiffusionDRO(**settings)


def test_with_the_policy_up_to_date_the_renoised_variant_has_no_gradient_from_its_own_samples():
    """Then e_pol is the trainee's own answer, and what is left of the term is its drift from the reference."""
    scale = torch.tensor(0.9, requires_grad=True)

    def predict(policy, x_t, t, condition):
        return torch.tanh({"reference": 0.5, "trainee": scale, "lagged": scale.detach()}[policy] * x_t)

    def gradient(winner_alone: bool) -> float:
        method, c = DiffusionDRO(real_margin=5.0, samples="renoised"), {"embedding": RECORDS["prompt"]}
        group = Group(
            torch.stack([RECORDS["winner"], RECORDS["own x0"]], 1), {"prompt": c}, torch.tensor([[1.0, 0.0]] * B)
        )
        objective = SFT().objective() if winner_alone else method.objective()
        loss = objective(group, T, NOISE, DiffusionPath(ABAR), "eps", predict).loss.sum()
        return float(torch.autograd.grad(loss, scale)[0])

    assert gradient(False) == pytest.approx(gradient(True), rel=1e-5)
