"""A policy that is an average of the trainee, stored in bfloat16: small steps are not lost, nor is a kill seen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from contrapose.backbones.policies import FullPolicies
from contrapose.methods import DiffusionDPO
from contrapose.train.align import align
from contrapose.train.loop import TrainState
from contrapose.train.settings import Optimisation, Run, Watching

pytestmark = pytest.mark.usefixtures("one_precision_a_process")


def _policies(stored: torch.dtype) -> FullPolicies:
    """A trainee of two linear layers around a norm, which stays in float32, and an average of it."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 8))
    policies = FullPolicies(network, stored, needs_reference=False, frozen={"old": None})
    policies.average("old")
    return policies


def _drift(policies: FullPolicies, steps: int, decay: float = 0.999) -> None:
    """Move the trainee by a hundredth of its weights' size, and the average a thousandth of the way after it."""
    random = torch.Generator().manual_seed(1)
    for _ in range(steps):
        for parameter in policies.parameters():
            parameter.data += 0.003 * torch.rand(parameter.shape, generator=random)
        policies.copy("trainee", "old", decay)


def _old(policies: FullPolicies) -> Tensor:
    return torch.cat([parameter.detach().float().flatten() for parameter in policies.frozen_parameters("old")])


def test_an_average_in_bf16_follows_the_one_in_float32() -> None:
    exact, rounded = _policies(torch.float32), _policies(torch.bfloat16)
    start = _old(exact)
    for policies in (exact, rounded):
        _drift(policies, 100)
    assert (_old(exact) - start).mean() > 0.005, "the average has moved"
    for ours, theirs in zip(rounded.frozen_parameters("old"), exact.frozen_parameters("old"), strict=True):
        assert torch.equal(ours, theirs.to(ours.dtype))
    assert {p.dtype for p in rounded.frozen_parameters("old")} == {torch.bfloat16, torch.float32}


def test_a_copy_is_what_the_average_goes_on_from() -> None:
    exact, rounded = _policies(torch.float32), _policies(torch.bfloat16)
    for policies in (exact, rounded):
        _drift(policies, 5)
        policies.copy("trainee", "old")
        _drift(policies, 5)
    for ours, theirs in zip(rounded.frozen_parameters("old"), exact.frozen_parameters("old"), strict=True):
        assert torch.equal(ours, theirs.to(ours.dtype))


def test_no_float32_is_held_of_what_is_float32() -> None:
    assert _policies(torch.float32).average("old") == {}
    assert sorted(_policies(torch.bfloat16).average("old")) == [0, 1, 4, 5]


@pytest.fixture
def run(tiny_model: Path, tiny_pairs: Path) -> Run:
    """In full and in bfloat16, against a reference that is an average of the trainee."""
    optimisation = Optimisation(learning_rate=1e-3, train_steps=5, batch_size=2, micro_batch=2)
    watching = Watching(holdout=0, save_every=2)
    return Run(
        str(tiny_model), tiny_pairs, DiffusionDPO(beta=200.0),
        full=True, precision="bf16", reference_decay=0.99, optimisation=optimisation, watching=watching,
    )  # fmt: skip


def _until(states: Iterator[TrainState], step: int) -> list[float]:
    """The losses up to this step, after which the run is killed."""
    losses = []
    for state in states:
        if state.metrics:  # none where a run goes on
            losses.append(state.metrics["loss"])
        if state.step == step:
            break
    states.close()  # type: ignore[attr-defined]
    return losses


def test_killed_and_resumed_is_uninterrupted(run: Run, tmp_path: Path) -> None:
    losses = _until(align(run, tmp_path / "whole"), 5)
    _until(align(run, tmp_path / "cut"), 3)
    assert _until(align(run, tmp_path / "cut"), 5) == losses[2:]
    last = "checkpoints/step-000004/training.safetensors"
    whole, cut = load_file(tmp_path / "whole" / last), load_file(tmp_path / "cut" / last)
    assert whole.keys() == cut.keys()
    assert all(torch.equal(value, cut[name]) for name, value in whole.items())
    assert {value.dtype for name, value in whole.items() if name.startswith("following.average/")} == {torch.float32}
