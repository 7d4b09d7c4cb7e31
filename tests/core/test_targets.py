"""Targets name the prediction that is the truth of each side."""

from __future__ import annotations

from contrapose.core.targets import ForwardNoise, PolicyContrast, PromptContrast, Row


def test_forward_noise_asks_for_no_prediction():
    assert [ForwardNoise().row(side, sample=side) for side in (0, 1)] == [None, None]


def test_prompt_contrast_is_the_reference_under_either_prompt():
    rows = [PromptContrast().row(side, sample=side) for side in (0, 1)]
    assert rows == [Row("reference", 0, "prompt"), Row("reference", 1, "degraded")]


def test_policy_contrast_is_two_policies_under_the_prompt():
    rows = [PolicyContrast().row(side, sample=side) for side in (0, 1)]
    assert rows == [Row("winner", 0, "prompt"), Row("loser", 1, "prompt")]
