"""Nothing waits for the device inside a micro-step: no method's loss copies to it what the host has to stand by for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from evaluated import a_group
from every_method import NAMES, run_of
from formulas import ABAR
from torch import Tensor
from waiting import copies

from contrapose.core.group import REWARD, Group, Sample
from contrapose.core.path import DiffusionPath
from contrapose.train.diagnostics import of_batch


def _meta(value: Tensor) -> Tensor:
    return value.to("meta")


def _without_values(group: Group) -> Group:
    samples: dict[str, Sample] = {}
    for name, sample in group.samples.items():
        scores = {judge: _meta(value) for judge, value in (sample.scores | {REWARD: sample.label}).items()}
        draws = None if sample.draws is None else _meta(sample.draws)
        samples[name] = Sample(_meta(sample.latent), _meta(sample.noise), _meta(sample.label), scores, draws)
    prompts = {
        slot: {name: _meta(value) for name, value in condition.items()} for slot, condition in group.prompts.items()
    }
    scale = None if group.reward_scale is None else _meta(group.reward_scale)
    return Group(samples, prompts, _meta(group.t), reward_scale=scale)


@pytest.mark.parametrize("split", [False, True], ids=["whole", "split"])
@pytest.mark.parametrize("name", NAMES)
def test_no_loss_makes_the_host_wait(name: str, split: bool) -> None:
    method = run_of(name, Path("model"), Path("pairs")).method
    group = _without_values(a_group(method))
    objective = replace(method.objective(), split=split)
    strength = torch.ones((), device="meta", dtype=torch.float64, requires_grad=True)

    def predict(policy: str, x_t: Tensor, t: Tensor, condition: Mapping[str, Tensor]) -> Tensor:
        return strength * x_t if policy in objective.trained else x_t

    with copies() as lines:
        outcome = objective(group, DiffusionPath(ABAR), "eps", predict)
        for part in outcome.parts:
            part.sum().backward()
        of_batch(outcome)
    assert not lines
