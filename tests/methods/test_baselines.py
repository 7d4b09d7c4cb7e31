"""The running baseline of likes and dislikes: what gains are counted from, and how it follows them."""

from __future__ import annotations

import pytest
from evaluated import evaluate, gradient_of
from formulas import BETA, B, kto, logistic, nll, tkto

from contrapose.core.running import RunningNumbers
from contrapose.methods import TKTO, DiffusionKTO


@pytest.mark.parametrize("baseline", [-0.4, 0.0, 0.3])
@pytest.mark.parametrize("split", [False, True])
def test_likes_and_dislikes_are_against_a_baseline_that_is_never_below_zero(baseline: float, split: bool) -> None:
    """The baseline is a reward: the paper's z times B."""
    outcome, _ = evaluate(DiffusionKTO(beta=2 * BETA), split, {"baseline": BETA * baseline})
    expected = [kto(i, BETA, logistic, baseline) for i in range(B)]
    assert outcome.loss.tolist() == pytest.approx([loss.item() for loss in expected], rel=1e-12, abs=0)
    assert gradient_of(outcome.parts) == pytest.approx(gradient_of(expected), rel=1e-12, abs=0)


@pytest.mark.parametrize("baseline", [-0.4, 0.3])
def test_prompts_are_liked_and_disliked_against_the_same_baseline(baseline: float) -> None:
    """By weights, one utility or the other, and with a gradient that may come from one of the two alone."""
    for weights in ((0.5, 3.0), (0.0, 1.0)):
        method = TKTO(beta=BETA, utility="loss-averse", like_weight=weights[0], dislike_weight=weights[1])
        outcome, _ = evaluate(method, split=True, running={"baseline": baseline})
        expected = [tkto(i, lambda x: -nll(x), baseline, weights) for i in range(B)]
        assert outcome.loss.tolist() == pytest.approx([loss.item() for loss in expected], rel=1e-12, abs=0)
        assert gradient_of(outcome.parts) == pytest.approx(gradient_of(expected), rel=1e-12, abs=0)


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
