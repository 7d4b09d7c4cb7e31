"""Every method against its paper's formula, written out here in double precision, and its count of predictions.

A new method is tested by a line in METHODS.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from contrapose.core.compose import OwnState, compose
from contrapose.core.group import Group, Pick
from contrapose.core.links import IPO, Hinge, Sigmoid
from contrapose.core.moving import Every
from contrapose.core.objective import Objective, Outcome
from contrapose.core.path import DiffusionPath
from contrapose.core.running import RunningNumbers
from contrapose.errors import UserError
from contrapose.methods import (
    CHATS,
    DDSPO,
    DSPO,
    METHODS,
    SFT,
    DataDrivenDDSPO,
    DiffusionDPO,
    DiffusionDRO,
    DiffusionKTO,
    Method,
    RealAlign,
    name_of,
)

BETA, B, D = 6.0, 4, 12  # B pairs of D numbers each
ABAR = torch.linspace(0.99, 0.02, 1000, dtype=torch.float64)
FIELDS = ("winner", "loser", "prompt", "degraded", "own x0", "own eps", "sample 1")
RECORDS = {
    name: torch.randn(B, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    for seed, name in enumerate(FIELDS)
}
NOISE = torch.randn(B, D, generator=torch.Generator().manual_seed(21), dtype=torch.float64)
T = torch.tensor([5, 300, 600, 990])
OTHER = [1, 2, 3, 0]
OWN_NOISE = {
    name: torch.randn(B, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    for seed, name in enumerate(("winner", "loser"), 31)
}
LIKED = torch.tensor([1.0, 0.0, 0.25, 1.0], dtype=torch.float64)  # of lone samples; the third is one by a share
TRAINED = {
    name: torch.tensor(strength, dtype=torch.float64, requires_grad=True)
    for name, strength in {"trainee": 0.9, "positive": 0.7, "negative": 0.8}.items()
}
FROZEN = {"reference": 0.5, "lagged": 0.6, "winner": 0.55, "loser": 0.45}


def network(policy: str, x_t: Tensor, t: Tensor, prompt: Tensor) -> Tensor:
    return torch.tanh((TRAINED | FROZEN)[policy] * x_t + prompt) + t[:, None].double() / 1000


def error(policy: str, i: int, x0: Tensor, target: Tensor, noise: Tensor = NOISE) -> Tensor:
    """mse of one pair's prediction under its own prompt."""
    prediction = noised_prediction(policy, i, x0, RECORDS["prompt"][i], noise)
    return sum((a - b) ** 2 for a, b in zip(target, prediction, strict=True)) / D


def noised_prediction(policy: str, i: int, x0: Tensor, prompt: Tensor, noise: Tensor = NOISE) -> Tensor:
    abar = float(ABAR[T[i]])
    x_t = math.sqrt(abar) * x0 + math.sqrt(1 - abar) * noise[i]
    return network(policy, x_t[None], T[i : i + 1], prompt[None])[0]


def margin(i: int, x_w: Tensor, x_l: Tensor, e_w: Tensor, e_l: Tensor) -> Tensor:
    """-(beta / 2) [ (mse_w - mse_l)_theta - (mse_w - mse_l)_ref ]"""
    of_trainee = error("trainee", i, x_w, e_w) - error("trainee", i, x_l, e_l)
    of_reference = error("reference", i, x_w, e_w) - error("reference", i, x_l, e_l)
    return -0.5 * BETA * (of_trainee - of_reference)


def dpo_margin(i: int) -> Tensor:
    return margin(i, RECORDS["winner"][i], RECORDS["loser"][i], NOISE[i], NOISE[i])


def ddspo_margin(i: int, x_l: Tensor, degraded: Tensor) -> Tensor:
    x_w = RECORDS["winner"][i]
    e_w = noised_prediction("reference", i, x_w, RECORDS["prompt"][i])
    return margin(i, x_w, x_l, e_w, noised_prediction("reference", i, x_l, degraded))


def paired(i: int) -> Tensor:
    return ddspo_margin(i, RECORDS["loser"][i], RECORDS["degraded"][i])


def not_paired(i: int) -> Tensor:
    return ddspo_margin(i, RECORDS["winner"][OTHER[i]], RECORDS["degraded"][i])


def random_positive(i: int) -> Tensor:
    """Another record's winner with its own prompt, strictly paired (Sec. 4.4)."""
    return ddspo_margin(i, RECORDS["winner"][OTHER[i]], RECORDS["prompt"][OTHER[i]])


def of_own_noise(i: int) -> Tensor:
    """DDSPO's margin where each side has noise of its own."""
    gains = []
    for side, prompt in (("winner", "prompt"), ("loser", "degraded")):
        x0, noise = RECORDS[side][i], OWN_NOISE[side]
        target = noised_prediction("reference", i, x0, RECORDS[prompt][i], noise)
        gains.append(error("trainee", i, x0, target, noise) - error("reference", i, x0, target, noise))
    return -0.5 * BETA * (gains[0] - gains[1])


def data_driven(i: int) -> Tensor:
    x_w, x_l, c = RECORDS["winner"][i], RECORDS["loser"][i], RECORDS["prompt"][i]
    return margin(i, x_w, x_l, noised_prediction("winner", i, x_w, c), noised_prediction("loser", i, x_l, c))


def dro(i: int, m: float, renoised: bool) -> Tensor:
    """max(0, m + [mse(n, theta(xr)) - mse(n, ref(xr))] - [mse(e_pol, theta(xp)) - mse(e_pol, ref(xp))])"""
    x_r, x_p, noise = RECORDS["winner"][i], RECORDS["own x0"][i], NOISE if renoised else RECORDS["own eps"]
    e_pol = noised_prediction("lagged", i, x_p, RECORDS["prompt"][i]) if renoised else noise[i]
    real = error("trainee", i, x_r, NOISE[i]) - error("reference", i, x_r, NOISE[i])
    own = error("trainee", i, x_p, e_pol, noise) - error("reference", i, x_p, e_pol, noise)
    return F.relu(m + real - own)


def dspo(i: int, strength: float) -> Tensor:
    """mean ((th_w - n) - k (th_w - ref_w))^2, k = B (1 - sigmoid(inside)), as SD1.5's code has it on predictions"""
    x_w, c = RECORDS["winner"][i], RECORDS["prompt"][i]
    theta, reference = (noised_prediction(policy, i, x_w, c) for policy in ("trainee", "reference"))
    k = strength * (1 - logistic(dpo_margin(i)))
    return ((theta - NOISE[i] - k * (theta - reference)) ** 2).mean()


def squared_dspo(i: int, limit: float) -> Tensor:
    """((1 - sigmoid(inside)) (th_w - ref_w))^2 where it has gone far, else (1 - sigmoid(inside))^2, as SDXL's code"""
    x_w, c = RECORDS["winner"][i], RECORDS["prompt"][i]
    gone = noised_prediction("trainee", i, x_w, c) - noised_prediction("reference", i, x_w, c)
    wrong = 1 - logistic(dpo_margin(i))
    if (gone**2).mean() >= limit:
        return ((wrong * gone) ** 2).mean()
    return wrong**2


def chats(i: int, paper_beta: float) -> Tensor:
    """-B [ (mse_w^+ - mse_w^ref) + (mse_l^- - mse_l^ref) ], without the half of the DPO family"""
    gains = [
        error(policy, i, RECORDS[side][i], NOISE[i]) - error("reference", i, RECORDS[side][i], NOISE[i])
        for policy, side in (("positive", "winner"), ("negative", "loser"))
    ]
    return -paper_beta * sum(gains)


def kto(i: int, paper_beta: float, utility: Callable[[Tensor], Tensor], baseline: float = 0.0,
        weights: tuple[float, float] = (1.0, 1.0)) -> Tensor:  # fmt: skip
    """w_y (1 - U(s_y B (g - z))), g = mse_ref - mse_theta without a half, z the baseline where it is above 0"""
    x0 = RECORDS["sample 1"][i]
    gain = error("reference", i, x0, NOISE[i]) - error("trainee", i, x0, NOISE[i])
    losses = [
        weight * (1 - utility(sign * paper_beta * (gain - max(baseline, 0.0))))
        for sign, weight in zip((1, -1), weights, strict=True)
    ]
    return LIKED[i] * losses[0] + (1 - LIKED[i]) * losses[1]


def logistic(x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-x))


def nll(m: Tensor) -> Tensor:
    return torch.log1p(torch.exp(-m))


# method, loss of pair i by the paper, rows a pair of trainee and of reference
METHOD_TABLE = [
    (DDSPO(beta=BETA), lambda i: nll(paired(i)), 2, 3),
    (DDSPO(beta=BETA, losers="not-paired"), lambda i: nll(not_paired(i)), 2, 3),
    (DDSPO(beta=BETA, losers="random-positive"), lambda i: nll(random_positive(i)), 2, 3),
    (DDSPO(beta=BETA, weighting="linear"), lambda i: nll(paired(i)) * (T[i].float() / 999), 2, 3),
    (DDSPO(beta=BETA, noise="own"), lambda i: nll(of_own_noise(i)), 2, 3),
    (DDSPO(beta=BETA, link=Hinge(margin=0.4)), lambda i: F.relu(0.4 - paired(i)), 2, 3),
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
    (DiffusionKTO(beta=2 * BETA), lambda i: kto(i, BETA, logistic), 1, 1),
    (
        DiffusionKTO(beta=2 * BETA, utility="loss-averse", like_weight=0.5, dislike_weight=3.0),
        lambda i: kto(i, BETA, lambda x: -nll(x), weights=(0.5, 3.0)),
        1,
        1,
    ),
    (DiffusionKTO(beta=2 * BETA, utility="risk-seeking"), lambda i: kto(i, BETA, lambda x: nll(-x)), 1, 1),
    (DSPO(beta=BETA), lambda i: dspo(i, BETA), 2, 2),
    (DSPO(beta=BETA, form="squared"), lambda i: squared_dspo(i, 0.1), 2, 2),
    (SFT(side="loser"), lambda i: error("trainee", i, RECORDS["loser"][i], NOISE[i]), 1, 0),
]
each_method = pytest.mark.parametrize(
    ("method", "formula", "num_trainee", "num_reference"), METHOD_TABLE, ids=[repr(row[0]) for row in METHOD_TABLE]
)


class Stored:
    """The records as a composition takes them."""

    def latent(self, pick: Pick) -> Tensor:
        field = RECORDS[pick.field]
        return field if pick.whose == "own" else field[OTHER]

    def label(self, sample: str) -> Tensor:
        if sample == "sample 1":
            return LIKED
        return torch.full((B,), float(sample == "winner"), dtype=torch.float64)

    def scores(self, pick: Pick) -> dict[str, Tensor]:
        return {}

    def condition(self, slot: str, pick: Pick) -> dict[str, Tensor]:
        return {"embedding": self.latent(pick)}


def a_group(method: Method) -> Group:
    composition = method.composition()
    drawn = OwnState(T, RECORDS["own x0"], RECORDS["own eps"]) if composition.on_policy else None
    return compose(composition, Stored(), T, NOISE, drawn, OWN_NOISE if composition.own_noise else None)


def evaluate(
    method: Method, split: bool = False, running: dict[str, float] | None = None
) -> tuple[Outcome, list[tuple[str, int]]]:
    """The method's loss on the records as its own composition asks, with an account of the calls."""
    calls: list[tuple[str, int]] = []

    def predict(policy, x_t, t, condition):
        calls.append((policy, len(x_t)))
        return network(policy, x_t, t, condition["embedding"])

    objective = replace(method.objective(), split=split)
    return objective(a_group(method), DiffusionPath(ABAR), "eps", predict, running), calls


@each_method
def test_loss_is_the_papers_formula(method, formula, num_trainee, num_reference):
    outcome, _ = evaluate(method)
    assert outcome.loss.tolist() == pytest.approx([formula(i).item() for i in range(B)], rel=1e-12, abs=1e-15)


@each_method
@pytest.mark.parametrize("split", [False, True])
def test_gradient_is_that_of_the_papers_formula(method, formula, num_trainee, num_reference, split):
    """The whole at once, or one side after the other: plain autograd through the formula gives the same."""
    weights = [TRAINED[policy] for policy in method.objective().trained]
    expected = torch.autograd.grad(sum(formula(i) for i in range(B)), weights)
    for part in evaluate(method, split)[0].parts:
        part.sum().backward()
    ours = [float(weight.grad) for weight in weights]
    for weight in weights:
        weight.grad = None
    assert all(float(slope) != 0 for slope in expected)
    assert ours == pytest.approx([float(slope) for slope in expected], rel=1e-11)


@each_method
def test_predictions_are_asked_for_once_in_one_stacked_call_a_policy(method, formula, num_trainee, num_reference):
    _, calls = evaluate(method)
    plan, trained = method.objective().plan(), method.objective().trained
    frozen = [policy for policy in plan if policy not in trained]
    assert calls == [(policy, len(plan[policy]) * B) for policy in [*frozen, *trained]]
    assert len(plan.get("reference", ())) == num_reference
    assert sum(len(plan[policy]) for policy in trained) == num_trainee


@each_method
def test_composition_offers_what_the_objective_looks_at(method, formula, num_trainee, num_reference):
    composition, plan = method.composition(), method.objective().plan()
    rows = [row for rows in plan.values() for row in rows]
    assert {row.sample for row in rows} == {*composition.samples, *(["own"] if composition.on_policy else [])}
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
    assert (DSPO().beta, DSPO().form) == (0.001, "residual")
    assert CHATS().beta == DiffusionKTO().beta == 2 * 1000.0, "their papers' losses have no factor of a half"


def test_each_policy_of_chats_learns_from_its_own_side():
    outcome, _ = evaluate(CHATS(beta=BETA))
    assert outcome.measured.rewards.shape == (B, 2)
    composition = CHATS(dropout=0.3).composition()
    assert composition.dropout == {"dropped": 0.3} and composition.fields == {"winner", "loser", "prompt"}


def test_what_a_method_needs_first():
    assert RealAlign().before == {"start": DiffusionDRO()}
    assert DataDrivenDDSPO().before == {"winner": SFT("winner"), "loser": SFT("loser")}
    assert set(DataDrivenDDSPO().before) == set(DataDrivenDDSPO().objective().frozen)
    assert DDSPO().before == {}


def test_methods_say_why_they_are_not_swapped():
    """What a method declares is none of its settings."""
    assert {cls for cls in METHODS.values() if cls.instead_of_swap} == {SFT, CHATS, DiffusionDRO}
    assert not any("instead_of_swap" in vars(cls()) for cls in METHODS.values())


@pytest.mark.parametrize("samples", ["trajectory", "renoised"])
def test_the_policy_that_draws_follows_the_trainee(samples):
    method = DiffusionDRO(samples=samples, sync_every=3)
    assert method.objective().moving == {"lagged": Every(3)}
    assert method.composition().on_policy.policy in method.objective().frozen


def test_every_method_has_one_name():
    assert {name_of(method) for method, *_ in METHOD_TABLE} == set(METHODS)


@pytest.mark.parametrize("settings", [{"states": 0}, {"sync_every": -1}, {"states": 30}])
def test_settings_of_rollouts_that_make_no_sense_are_refused(settings):
    with pytest.raises(UserError, match=next(iter(settings))):
        DiffusionDRO(**settings)


def test_with_the_policy_up_to_date_the_renoised_variant_has_no_gradient_from_its_own_samples():
    """Then e_pol is the trainee's own answer, and what is left of the term is its drift from the reference."""
    scale = torch.tensor(0.9, dtype=torch.float64, requires_grad=True)

    def predict(policy, x_t, t, condition):
        return torch.tanh({"reference": 0.5, "trainee": scale, "lagged": scale.detach()}[policy] * x_t)

    def gradient(objective: Objective) -> float:
        group = a_group(DiffusionDRO(real_margin=5.0, samples="renoised"))
        loss = objective(group, DiffusionPath(ABAR), "eps", predict).loss.sum()
        return float(torch.autograd.grad(loss, scale)[0])

    dro = DiffusionDRO(real_margin=5.0, samples="renoised").objective()
    assert gradient(dro) == pytest.approx(gradient(SFT().objective()), rel=1e-10)


def gradient_of(losses: Iterable[Tensor]) -> float:
    return float(torch.autograd.grad(sum(loss.sum() for loss in losses), TRAINED["trainee"])[0])


def test_squared_dspo_pulls_back_a_winner_that_has_gone_far(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of these pairs two are beyond the limit, each of which is decided alone."""
    monkeypatch.setattr("contrapose.methods.dspo._GROSS_DRIFT", 0.02)
    method = DSPO(beta=BETA, form="squared")
    outcome, _ = evaluate(method)
    assert outcome.measured.D[:, 0].gt(0.02).tolist() == [True, True, False, False]
    expected = [squared_dspo(i, 0.02) for i in range(B)]
    assert outcome.loss.tolist() == pytest.approx([loss.item() for loss in expected], rel=1e-12)
    assert gradient_of(evaluate(method, split=True)[0].parts) == pytest.approx(gradient_of(expected), rel=1e-11)


def test_published_dspo_is_fine_tuning_on_winners_to_about_three_digits() -> None:
    """On SD1.5: B is .001."""
    assert gradient_of(evaluate(DSPO())[0].parts) == pytest.approx(gradient_of(evaluate(SFT())[0].parts), rel=3e-3)


@pytest.mark.parametrize("baseline", [-0.4, 0.0, 0.3])
@pytest.mark.parametrize("split", [False, True])
def test_likes_and_dislikes_are_against_a_baseline_that_is_never_below_zero(baseline: float, split: bool) -> None:
    """The baseline is a reward: the paper's z times B."""
    outcome, _ = evaluate(DiffusionKTO(beta=2 * BETA), split, {"baseline": BETA * baseline})
    expected = [kto(i, BETA, logistic, baseline) for i in range(B)]
    assert outcome.loss.tolist() == pytest.approx([loss.item() for loss in expected], rel=1e-12)
    assert gradient_of(outcome.parts) == pytest.approx(gradient_of(expected), rel=1e-11)


def test_the_baseline_follows_the_rewards() -> None:
    """Before the first step it is zero; then a tenth of the way to each step's mean."""
    method = DiffusionKTO(beta=2 * BETA, baseline_decay=0.9)
    numbers = RunningNumbers(method.objective().running)
    expected = 0.0
    for _ in range(3):
        outcome, _ = evaluate(method, running=numbers.values)
        assert outcome.measured.running == {"baseline": pytest.approx(expected)}
        mean = outcome.followed["baseline"].mean().item()
        assert mean == pytest.approx(outcome.measured.rewards.mean().item())
        numbers.update({"baseline": mean})
        expected = 0.9 * expected + 0.1 * mean
    assert abs(expected) > 1e-3
