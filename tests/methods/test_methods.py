"""Every method against its paper's formula, written out here in double precision, and its count of predictions.

A new method is tested by a line in METHODS.
"""

from __future__ import annotations

import math

import group_formulas
import pytest
import torch
from evaluated import a_group, evaluate, gradient_of
from formulas import (
    ABAR,
    BETA,
    NOISE,
    RANKS,
    RECORDS,
    SCORES,
    TRAINED,
    B,
    T,
    chats,
    cooling,
    data_driven,
    dpo_margin,
    dro,
    dspo,
    error,
    guarded_ddspo,
    guarded_margin,
    inversion_margin,
    kto,
    logistic,
    mapo,
    nll,
    not_paired,
    of_own_noise,
    paired,
    plackett_luce,
    random_positive,
    rank_dpo,
    reverse_kl,
    sdpo,
    self_npo,
    squared_dspo,
    step_margin,
    sureness,
    tdpo_margin,
    tkto,
    win_rates,
)
from torch.nn import functional as F

from contrapose.core.guards import SDPO, Cooling
from contrapose.core.links import IPO, Hinge, Sigmoid
from contrapose.core.moving import Every
from contrapose.core.objective import Objective
from contrapose.core.path import DiffusionPath
from contrapose.errors import UserError
from contrapose.methods import (
    AWM,
    CHATS,
    CRD,
    D3PO,
    DDSPO,
    DGPO,
    DMPO,
    DSPO,
    METHODS,
    NFT,
    SFT,
    SPO,
    TDPO,
    TKTO,
    CaPO,
    DataDrivenDDSPO,
    DiffusionDPO,
    DiffusionDRO,
    DiffusionKTO,
    DiffusionLPO,
    InPO,
    MaPO,
    OnlineDPO,
    RankDPO,
    RealAlign,
    SelfNPO,
    SmPO,
    TailorPO,
    name_of,
)
from contrapose.methods.judged_groups import JudgedGroups
from contrapose.methods.own_samples import OwnSamples
from contrapose.methods.own_steps import StepSampling

PLAIN = StepSampling(rollout_guidance_scale=1.0)

JUDGED = JudgedGroups(OwnSamples(4), True, "taste")
JUDGED_OF_3 = JudgedGroups(OwnSamples(3), True, "taste")
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
    (InPO(beta=BETA, inversion_steps=3), lambda i: nll(inversion_margin(i, 3, eta=0.1)), 2, 2),
    (InPO(beta=BETA, inversion_steps=4, inversion_eta=0.0), lambda i: nll(inversion_margin(i, 4)), 2, 2),
    (SmPO(beta=BETA, inversion_steps=2), lambda i: nll(10 * inversion_margin(i, 2, renoise=True)), 2, 2),
    (
        SmPO(beta=BETA, inversion_steps=2, judge="taste", score_range=2.5),
        lambda i: nll(sureness(i) * inversion_margin(i, 2, renoise=True)),
        2,
        2,
    ),
    (SelfNPO(huber_scale=0.1), lambda i: self_npo(i, 5, 40, 0.1), 1, 0),
    (SelfNPO(descent_steps=2, descent_grid=10), lambda i: self_npo(i, 2, 100, 1e-3), 1, 0),
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
    (DiffusionDPO(beta=BETA, guard=SDPO(0.6)), lambda i: nll(guarded_margin(i, sdpo(0.6))), 2, 2),
    (DiffusionDPO(beta=BETA, guard=Cooling(0.5)), lambda i: nll(guarded_margin(i, cooling(0.5))), 2, 2),
    (DDSPO(beta=BETA, guard=SDPO(0.9)), lambda i: nll(guarded_ddspo(i, sdpo(0.9))), 2, 3),
    (DSPO(beta=BETA, guard=SDPO(0.2)), lambda i: dspo(i, BETA, guarded_margin(i, sdpo(0.2))), 2, 2),
    (DMPO(beta=BETA, alpha=0.1), lambda i: reverse_kl(dpo_margin(i), 0.9), 2, 2),
    (DMPO(beta=BETA, guard=SDPO(0.6)), lambda i: reverse_kl(guarded_margin(i, sdpo(0.6)), 0.99), 2, 2),
    (MaPO(beta=0.3, steepness=0.7), lambda i: mapo(i, 0.3, 0.7), 2, 0),
    (TDPO(beta=BETA), lambda i: nll(tdpo_margin(i)), 2, 2),
    (TKTO(beta=BETA), lambda i: tkto(i, logistic, 0.0, (1.0, 1.0)), 2, 2),
    (CaPO(beta=BETA), lambda i: (1 - dpo_margin(i)) ** 2, 2, 2),
    (CaPO(beta=BETA, judge="taste"), lambda i: (SCORES["winner"][i] - SCORES["loser"][i] - dpo_margin(i)) ** 2, 2, 2),
    (DiffusionLPO(beta=BETA), lambda i: plackett_luce(i, RANKS), 4, 4),
    (DiffusionLPO(beta=BETA, num_samples=3), lambda i: plackett_luce(i, RANKS[:3]), 3, 3),
    (RankDPO(beta=BETA), lambda i: rank_dpo(i, [1.0, 0.8, 0.8, 0.1]), 4, 4),
    (RankDPO(beta=BETA, judge="taste"), lambda i: rank_dpo(i, win_rates(i)), 4, 4),
    (OnlineDPO(beta=BETA), lambda i: nll(dpo_margin(i)), 2, 2),
    (DGPO(BETA, JUDGED, ratio_clip=0.1), lambda i: group_formulas.dgpo(i, 4, BETA, 0.1, 0.02), 4, 4),
    (
        NFT(0.5, JUDGED_OF_3, space=None),
        lambda i: group_formulas.nft(i, 3, 0.5, 5.0, 1e-4),
        3,
        3,
    ),
    (CRD(2.0, JUDGED), lambda i: group_formulas.crd(i, 4, 2.0, 0.1), 4, 4),
    (AWM(0.25, groups=JUDGED, ratio_clip=0.05), lambda i: group_formulas.awm(i, 4, 0.25, 0.05, (0.003, 1.0)), 4, 4),
    (SPO(), lambda i: nll(10 * step_margin(i, 0.1, one_state=True)), 2, 2),  # guided: a row without the prompt too
    (SPO(beta=3.0, clip=0.3, sampling=PLAIN), lambda i: nll(3 * step_margin(i, 0.3, one_state=True)), 1, 1),
    (TailorPO(beta=BETA, sampling=PLAIN), lambda i: nll(BETA * step_margin(i, math.inf, one_state=True)), 1, 1),
    (SPO(sampling=StepSampling(rollout_guidance_scale=0.0)), lambda i: nll(10 * step_margin(i, 0.1, True)), 1, 1),
    (D3PO(), lambda i: nll(0.1 * step_margin(i, 0.1, one_state=False)), 4, 4),
    (D3PO(beta=BETA, clip=0.6, sampling=PLAIN), lambda i: nll(BETA * step_margin(i, 0.6, one_state=False)), 2, 2),
    (SFT(side="loser"), lambda i: error("trainee", i, RECORDS["loser"][i], NOISE[i]), 1, 0),
]
each_method = pytest.mark.parametrize(
    ("method", "formula", "num_trainee", "num_reference"), METHOD_TABLE, ids=[repr(row[0]) for row in METHOD_TABLE]
)


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
    assert ours == pytest.approx([float(slope) for slope in expected], rel=1e-12, abs=0)


@each_method
def test_predictions_are_asked_for_once_in_one_stacked_call_a_policy(method, formula, num_trainee, num_reference):
    _, calls = evaluate(method)
    walk = method.objective().walk
    if walk is not None:
        walking, calls = calls[: walk.num_calls], calls[walk.num_calls :]
        assert walking == [(walk.policy, len(method.composition().samples) * B)] * walk.num_calls
    plan, trained = method.objective().plan(), method.objective().trained
    frozen = [policy for policy in plan if policy not in trained]
    assert calls == [(policy, len(plan[policy]) * B) for policy in [*frozen, *trained]]
    assert len(plan.get("reference", ())) == num_reference
    assert sum(len(plan[policy]) for policy in trained) == num_trainee


@each_method
def test_composition_offers_what_the_objective_looks_at(method, formula, num_trainee, num_reference):
    composition, plan = method.composition(), method.objective().plan()
    rows = [row for rows in plan.values() for row in rows]
    # a side may be a sample of which only the truth is looked at, since it shares another one's state
    looked_at = {row.sample for row in rows} | {side.sample for side in method.objective().sides}
    assert looked_at == {*composition.samples, *(["own"] if composition.on_policy else [])}
    walk = method.objective().walk
    walked_under = {getattr(walk, "slot", "prompt")}
    assert {row.slot for row in rows} | walked_under == set(composition.prompts)
    assert composition.num_draws == (walk.num_draws if walk is not None else 0)


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
    assert (DMPO().beta, DMPO().alpha, MaPO().beta, MaPO().steepness) == (2000.0, 0.01, 0.1, 0.5)
    assert (DSPO().beta, DSPO().form) == (0.001, "residual")
    assert CHATS().beta == DiffusionKTO().beta == TKTO().beta == 2 * 1000.0, (
        "their papers' losses have no factor of a half"
    )


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
    declaring = {cls for cls in METHODS.values() if cls.instead_of_swap}
    assert declaring == {SFT, CHATS, DiffusionDRO, SmPO, SelfNPO, TDPO, TKTO, CaPO, RankDPO, DGPO, NFT, AWM, CRD}
    assert not any("instead_of_swap" in vars(cls()) for cls in METHODS.values())


@pytest.mark.parametrize("samples", ["trajectory", "renoised"])
def test_the_policy_that_draws_follows_the_trainee(samples):
    method = DiffusionDRO(samples=samples, sync_every=3)
    assert method.objective().moving == {"lagged": Every(3)}
    assert method.composition().on_policy.policy in method.objective().frozen


def test_every_method_has_one_name():
    assert {name_of(method) for method, *_ in METHOD_TABLE} == set(METHODS)


@pytest.mark.parametrize("settings", [{"states": 0}, {"sync_every": -1}, {"states": 30}, {"rollouts": 33}])
def test_settings_of_rollouts_that_make_no_sense_are_refused(settings):
    with pytest.raises(UserError, match=next(iter(settings))):
        DiffusionDRO(**settings)


def test_a_range_of_scores_that_nobody_gives_is_refused():
    with pytest.raises(UserError, match="score_range: is of a judge's scores"):
        SmPO(score_range=2.5)


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


def test_squared_dspo_pulls_back_a_winner_that_has_gone_far(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of these pairs two are beyond the limit, each of which is decided alone."""
    monkeypatch.setattr("contrapose.methods.dspo._GROSS_DRIFT", 0.02)
    method = DSPO(beta=BETA, form="squared")
    outcome, _ = evaluate(method)
    assert outcome.measured.D[:, 0].gt(0.02).tolist() == [True, True, False, False]
    expected = [squared_dspo(i, 0.02) for i in range(B)]
    assert outcome.loss.tolist() == pytest.approx([loss.item() for loss in expected], rel=1e-12, abs=0)
    assert gradient_of(evaluate(method, split=True)[0].parts) == pytest.approx(gradient_of(expected), rel=1e-12, abs=0)


def test_published_dspo_is_fine_tuning_on_winners_to_about_three_digits() -> None:
    """On SD1.5: B is .001."""
    assert gradient_of(evaluate(DSPO())[0].parts) == pytest.approx(gradient_of(evaluate(SFT())[0].parts), rel=3e-3)
