"""The objective: one stacked call a policy, and the loss and gradient that the papers' algebra promises."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from comparing import (
    GUIDED,
    KINDS,
    PATH,
    PLAIN,
    PROMPTS,
    SHAPE,
    TIMES,
    B,
    Net,
    a_group,
    evaluate,
    near_the_reference,
    some_policies,
)
from torch import Tensor, nn

from contrapose.core.group import Group
from contrapose.core.links import Identity, Sigmoid
from contrapose.core.objective import Objective, Row, Side, weight
from contrapose.core.path import FlowPath
from contrapose.methods import METHODS

each_kind = pytest.mark.parametrize("sides", KINDS.values(), ids=KINDS)


@each_kind
def test_starts_at_log_two_with_no_reward_and_no_drift(sides):
    outcome = evaluate(Objective(sides, Sigmoid(), 400.0), a_group(), some_policies())
    torch.testing.assert_close(outcome.loss, torch.full((B,), math.log(2)))
    assert outcome.measured.rewards.abs().max() == 0
    assert outcome.measured.D.abs().max() == 0


@each_kind
def test_only_the_trainee_learns_and_only_its_call_records(sides):
    predict = some_policies(trainee_seed=5)
    evaluate(Objective(sides, Sigmoid(), 1.0), a_group(), predict).loss.mean().backward()
    learnt = {name for name, net in predict.nets.items() if any(p.grad is not None for p in net.parameters())}
    assert learnt == {"trainee"}
    assert all(recorded == (policy == "trainee") for policy, _, recorded in predict.calls)


def test_everything_but_the_loss_is_detached():
    outcome = evaluate(Objective(PLAIN, Sigmoid(), 400.0), a_group(), some_policies(trainee_seed=5))
    assert outcome.loss.requires_grad
    tensors = [value for value in vars(outcome.measured).values() if isinstance(value, Tensor)]
    assert len(tensors) == 7 and not any(value.requires_grad for value in tensors)


def test_what_is_measured_is_what_it_says():
    """T, R, D and the overlap of residuals, written out for a pair whose truths are two predictions."""
    group, predict, t = a_group(dtype=torch.float64), near_the_reference(0.3), TIMES
    measured = evaluate(Objective(PROMPTS, Sigmoid(), 3.0), group, predict).measured
    c, degraded = group.prompts["prompt"], group.prompts["degraded"]
    trainee, reference = predict.nets["trainee"], predict.nets["reference"]
    x = [PATH.add_noise(group.samples[name].latent, group.samples[name].noise, t) for name in ("winner", "loser")]
    truths = [reference(x[0], t, c), reference(x[1], t, degraded)]
    for side in (0, 1):
        ours, theirs = trainee(x[side], t, c), reference(x[side], t, c)
        errors = {"T": truths[side] - ours, "R": truths[side] - theirs, "D": ours - theirs}
        for name, difference in errors.items():
            torch.testing.assert_close(getattr(measured, name)[:, side], difference.square().flatten(1).mean(1))
    torch.testing.assert_close(measured.rewards, 1.5 * (measured.R - measured.T))
    residuals = [(truth - trainee(x_t, t, c)).flatten(1) for truth, x_t in zip(truths, x, strict=True)]
    torch.testing.assert_close(measured.overlap[:, 0, 1], (residuals[0] * residuals[1]).mean(1))
    torch.testing.assert_close(measured.overlap, measured.overlap.mT)
    torch.testing.assert_close(measured.overlap.diagonal(dim1=1, dim2=2), measured.T)


def test_a_link_sees_labels_and_scores_by_side():
    """Of a group of any number of samples, in the order of the sides."""
    names = ("0", "1", "2", "3")
    scores = torch.arange(12.0).view(3, 4)
    labels = {name: torch.full((B,), float(place)) for place, name in enumerate(names)}
    group = a_group(*names, labels=labels, scores=scores)
    sides = tuple(Side(name) for name in reversed(names))
    measured = evaluate(Objective(sides, Identity(), 2.0), group, some_policies(trainee_seed=5)).measured
    assert measured.T.shape == (B, 4)
    assert measured.labels[0].tolist() == [3.0, 2.0, 1.0, 0.0]
    assert torch.equal(measured.scores["judge"], scores.flip(1))


def test_without_a_reference_there_is_neither_r_nor_d():
    predict = some_policies(trainee_seed=5)
    outcome = evaluate(Objective((Side("winner"),), Identity(), 2.0, reference=None), a_group(), predict)
    assert outcome.measured.R is None and outcome.measured.D is None
    torch.testing.assert_close(outcome.loss.detach(), outcome.measured.T[:, 0])
    assert predict.calls == [("trainee", B, True)]


def test_a_truth_may_be_shares_of_predictions():
    """A guided prediction: u + s (c - u) with s = 3 is 3 c - 2 u."""
    group, predict = a_group(), some_policies(trainee_seed=5)
    outcome = evaluate(Objective(GUIDED, Sigmoid(), 3.0), group, predict)
    x_t = PATH.add_noise(group.samples["winner"].latent, group.samples["winner"].noise, TIMES)
    of_prompt, of_degraded = (Net(0)(x_t, TIMES, group.prompts[slot]) for slot in ("prompt", "degraded"))
    truth = of_degraded + 3 * (of_prompt - of_degraded)
    error = truth - predict.nets["trainee"](x_t, TIMES, group.prompts["prompt"])
    torch.testing.assert_close(outcome.measured.T[:, 0], error.detach().square().flatten(1).mean(1))


def test_a_truth_is_never_asked_of_a_policy_that_is_trained():
    with pytest.raises(ValueError, match="asked of trainee, which is trained"):
        Objective((Side("winner", truth={Row("trainee", "winner"): 1.0}),), Identity(), 2.0)


def test_ddspo_margin_is_the_identity_of_drifts():
    """inside = -(beta / 2) [ |Dw|^2 - |Dl|^2 - 2 <Dl, d> ], mean norms, d = e_ref(x_l, c) - e_ref(x_l, c-)."""
    beta, group, predict, t = 1.0, a_group(), some_policies(trainee_seed=5), TIMES
    outcome = evaluate(Objective(PROMPTS, Sigmoid(), beta), group, predict)
    samples = (group.samples["winner"], group.samples["loser"])
    x_w, x_l = (PATH.add_noise(sample.latent, sample.noise, t) for sample in samples)
    c, degraded = group.prompts["prompt"], group.prompts["degraded"]
    trainee, reference = predict.nets["trainee"], predict.nets["reference"]
    drift_w = trainee(x_w, t, c) - reference(x_w, t, c)
    drift_l = trainee(x_l, t, c) - reference(x_l, t, c)
    d = reference(x_l, t, c) - reference(x_l, t, degraded)
    inside = -0.5 * beta * (drift_w**2 - drift_l**2 - 2 * drift_l * d).flatten(1).mean(1)
    rewards = outcome.measured.rewards
    torch.testing.assert_close(rewards[:, 0] - rewards[:, 1], inside.detach(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(outcome.loss, nn.functional.softplus(-inside), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(outcome.measured.D[:, 1], drift_l.detach().square().flatten(1).mean(1))


def gradients_at_the_start(objective: Objective, group: Group) -> tuple[Tensor, Tensor]:
    """dL/d(trainee's prediction) on winners and losers, where the trainee is the reference."""
    seen: list[Tensor] = []

    def predict(policy, x_t, t, condition):
        answer = Net(0)(x_t, t, condition)
        if policy == "trainee":
            answer = answer.detach().requires_grad_()
            seen.append(answer)
        return answer

    objective(group, PATH, "eps", predict).loss.sum().backward()
    winner, loser = seen[0].grad.chunk(2)
    return winner, loser


def test_ddspo_starts_along_the_direction_of_guidance():
    """dL/de_w = 0 and dL/de_l = -(beta / 2) d / D: the step raises e(x_l, c) along e_ref(c) - e_ref(c-)."""
    beta, group = 7.0, a_group()
    winner, loser = gradients_at_the_start(Objective(PROMPTS, Sigmoid(), beta), group)
    x_l = PATH.add_noise(group.samples["loser"].latent, group.samples["loser"].noise, TIMES)
    d = Net(0)(x_l, TIMES, group.prompts["prompt"]) - Net(0)(x_l, TIMES, group.prompts["degraded"])
    assert winner.abs().max() == 0
    torch.testing.assert_close(loser, -0.5 * beta * d.detach() / d[0].numel())


def test_dpo_starts_towards_the_noise_on_winners_and_away_on_losers():
    """dL/de_w = (beta / 2) (e_ref - eps) / D on winners and its negative on losers."""
    beta, group = 7.0, a_group()
    gradients = gradients_at_the_start(Objective(PLAIN, Sigmoid(), beta), group)
    for sample, sign, slope in zip(group.samples.values(), (1, -1), gradients, strict=True):
        x_t = PATH.add_noise(sample.latent, sample.noise, TIMES)
        error = Net(0)(x_t, TIMES, group.prompts["prompt"]) - sample.noise
        torch.testing.assert_close(slope, sign * 0.5 * beta * error.detach() / error[0].numel())


def test_degraded_prompt_equal_to_the_prompt_has_exactly_no_gradient():
    group, predict = a_group(), some_policies()
    group.prompts["degraded"] = group.prompts["prompt"]
    evaluate(Objective(PROMPTS, Sigmoid(), 16000.0), group, predict).loss.sum().backward()
    assert all(torch.count_nonzero(p.grad) == 0 for p in predict.nets["trainee"].parameters())


def test_every_distinct_prediction_is_planned_once():
    """Three rows of the reference for two truths and two answers, as the winner's truth is its answer."""
    plan = Objective(PROMPTS, Sigmoid(), 1.0).plan()
    reference = [Row("reference", "winner"), Row("reference", "loser", "degraded"), Row("reference", "loser")]
    assert list(plan["reference"]) == reference
    assert list(plan["trainee"]) == [Row("trainee", "winner"), Row("trainee", "loser")]
    assert list(plan) == ["reference", "trainee"]


def test_the_plan_of_one_image_under_two_prompts():
    """TDPO: winner and loser are one sample, and the slot tells them apart."""
    sides = (Side("winner"), Side("winner", slot="degraded"))
    predict = some_policies(trainee_seed=5)
    outcome = evaluate(Objective(sides, Sigmoid(), 3.0), a_group("winner"), predict)
    assert predict.calls == [("reference", 2 * B, False), ("trainee", 2 * B, True)]
    assert outcome.measured.rewards.shape == (B, 2)


def test_policies_that_follow_the_trainee_are_among_the_frozen():
    objective = METHODS["diffusion-dro"]().objective()
    assert set(objective.plan()) == {"reference", "trainee"} and objective.frozen == ("lagged",)


def test_noise_group_and_prompts_are_left_as_they_were():
    """The field's target overwrote the noise in place."""

    def tensors(group: Group) -> list[Tensor]:
        return [group.t, *(value for s in group.samples.values() for value in (s.latent, s.noise, s.label))]

    group = a_group()
    kept = [value.clone() for value in tensors(group)]
    for sides in KINDS.values():
        evaluate(Objective(sides, Sigmoid(), 400.0), group, some_policies(trainee_seed=5)).loss.sum().backward()
    assert all(torch.equal(a, b) for a, b in zip(kept, tensors(group), strict=True))


def test_both_sides_share_time_noise_and_prompt():
    """The field dropped captions of winner and loser separately."""
    calls = {}

    def predict(policy, x_t, t, condition):
        calls[policy] = (x_t, t, condition["embedding"])
        return x_t

    group = a_group()
    group.samples["loser"] = group.samples["winner"]
    evaluate(Objective(PLAIN, Sigmoid(), 400.0), group, predict)
    for seen in calls.values():
        assert all(torch.equal(*half.chunk(2)) for half in seen)


def test_a_sample_may_have_noise_of_its_own():
    """A state of a trajectory is told as the data and the noise that were predicted there."""
    group, predict = a_group(), some_policies(trainee_seed=5)
    loser = replace(group.samples["loser"], noise=torch.randn(B, *SHAPE, generator=torch.Generator().manual_seed(3)))
    group.samples["loser"] = loser
    outcome = evaluate(Objective(PLAIN, Sigmoid(), 3.0), group, predict)
    x_t = PATH.add_noise(loser.latent, loser.noise, TIMES)
    error = loser.noise - predict.nets["trainee"](x_t, TIMES, group.prompts["prompt"])
    torch.testing.assert_close(outcome.measured.T[:, 1], error.detach().square().flatten(1).mean(1))


def test_a_batch_scores_each_group_as_if_alone():
    """The field averaged errors, or log-sigmoids' arguments, over the batch."""
    group, predict = a_group(), some_policies(trainee_seed=5)
    objective = Objective(PROMPTS, Sigmoid(), 3.0)
    whole = evaluate(objective, group, predict)
    for i in range(B):
        row = slice(i, i + 1)
        prompts = {slot: {"embedding": c["embedding"][row]} for slot, c in group.prompts.items()}
        samples = {
            name: replace(s, latent=s.latent[row], noise=s.noise[row], label=s.label[row])
            for name, s in group.samples.items()
        }
        alone = evaluate(objective, Group(samples, prompts, group.t[row]), predict)
        torch.testing.assert_close(alone.loss, whole.loss[row])
        torch.testing.assert_close(alone.measured.rewards, whole.measured.rewards[row])


def test_labels_decide_who_wins_and_not_the_place():
    """The field left labels as strings, so that the left image always won."""
    group, predict = a_group(), some_policies(trainee_seed=5)
    plain = evaluate(Objective(PLAIN, Sigmoid(), 3.0), group, predict)
    turned = evaluate(Objective(PLAIN[::-1], Sigmoid(), 3.0), group, predict)
    torch.testing.assert_close(turned.loss, plain.loss)
    assert torch.equal(turned.measured.labels, plain.measured.labels.flip(1))


def test_the_measure_space_scales_errors_as_the_path_does():
    """mse in x0 is (s / a)^2 times the mse in eps."""
    group, predict = a_group(), some_policies(trainee_seed=5)
    in_eps = evaluate(Objective(PLAIN, Identity(), 2.0), group, predict).measured
    in_x0 = evaluate(Objective(PLAIN, Identity(), 2.0, space="x0"), group, predict).measured
    a, s = PATH.coefficients(TIMES)
    torch.testing.assert_close(in_x0.T, in_eps.T * (s / a).square()[:, None], rtol=1e-3, atol=0)


def test_flow_models_are_scored_on_their_velocity():
    group = replace(a_group(), t=torch.tensor([0.1, 0.5, 0.9]))
    outcome = Objective(PLAIN, Identity(), 2.0)(group, FlowPath(), "velocity", some_policies())
    t, winner = group.t.view(-1, 1, 1, 1), group.samples["winner"]
    x_t = (1 - t) * winner.latent + t * winner.noise
    error = Net(0)(x_t, group.t, group.prompts["prompt"]) - (winner.noise - winner.latent)
    torch.testing.assert_close(outcome.measured.T[:, 0], error.detach().square().flatten(1).mean(1))


def test_weights_of_the_noise_level():
    level = torch.tensor([0.0, 0.5, 1.0])
    assert weight("none", level).tolist() == [1.0, 1.0, 1.0]
    assert weight("linear", level).tolist() == [0.0, 0.5, 1.0]
    authors = [1 / (1 + math.exp(-(-15 + 20 * value - 1.5))) for value in (0.0, 0.5, 1.0)]
    assert weight("sigmoid", level).tolist() == pytest.approx(authors, rel=1e-5)


def test_the_weight_multiplies_the_loss_and_not_the_reward():
    group, predict = a_group(), some_policies(trainee_seed=5)
    plain = evaluate(Objective(PLAIN, Sigmoid(), 3.0), group, predict)
    linear = evaluate(Objective(PLAIN, Sigmoid(), 3.0, weighting="linear"), group, predict)
    torch.testing.assert_close(linear.measured.rewards, plain.measured.rewards)
    torch.testing.assert_close(linear.loss, plain.loss * torch.tensor([10, 400, 900]) / 999)
