"""Every optimiser descends, is carried over a kill to the last bit, and says what it cannot do."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torch.optim import Optimizer

from contrapose.errors import UserError
from contrapose.runs.training_state import Moments, Weights, load_training, save_training
from contrapose.train.optimizers import build_optimizer
from contrapose.train.settings import Optimisation

CPU = torch.device("cpu")
NAMES: tuple[Any, ...] = get_args(get_type_hints(Optimisation)["optimizer"])


@pytest.fixture(params=NAMES)
def settings(request: pytest.FixtureRequest) -> Optimisation:
    if "8bit" in request.param:
        pytest.importorskip("bitsandbytes")
    return Optimisation(optimizer=request.param, learning_rate=1e-2)


def _net(seed: int = 0) -> nn.Module:
    """Tensors below and above 4096 numbers, where moments begin to have 8 bits, one not lying in the usual order."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(4, 128, 3, padding=1), nn.Conv2d(128, 4, 3, padding=1), nn.LayerNorm(8))
    return net.to(memory_format=torch.channels_last)


def _train(net: nn.Module, optimizer: Optimizer, steps: range) -> list[float]:
    losses = []
    for step in steps:
        x = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(step))
        loss = (net(x) - x).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.fixture
def prepared() -> Accelerator:
    return Accelerator(cpu=True)


def test_reduces_a_quadratic(settings: Optimisation) -> None:
    parameter = nn.Parameter(torch.linspace(-1, 1, 64 * 128).view(64, 128).clone())
    optimizer = build_optimizer(settings, [parameter], CPU)
    for _ in range(50):
        parameter.square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert parameter.square().mean() < 0.2


def test_resumed_is_uninterrupted(settings: Optimisation, prepared: Accelerator, tmp_path: Path) -> None:
    """Through accelerate's wrapper, as in a run."""
    parts = []
    for seed in (0, 1):
        net = _net(seed)
        parts.append((net, prepared.prepare_optimizer(build_optimizer(settings, list(net.parameters()), CPU))))
    (whole, its), (resumed, theirs) = parts
    _train(whole, its, range(3))
    for step in (3, 6):  # twice, as what was restored is saved again
        save_training(tmp_path / "step.safetensors", step, net=Weights(list(whole.parameters())), moments=Moments(its))
        restored = {"net": Weights(list(resumed.parameters())), "moments": Moments(theirs)}
        assert load_training(tmp_path / "step.safetensors", **restored) == step
        states = zip(whole.parameters(), resumed.parameters(), strict=True)
        assert all(_same(its.state[a], theirs.state[b]) for a, b in states)
        assert _train(whole, its, range(step, step + 3)) == _train(resumed, theirs, range(step, step + 3))
        assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def _same(ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
    """The same fields, kinds and numbers."""
    return ours.keys() == theirs.keys() and all(
        torch.equal(value, theirs[name]) and value.dtype == theirs[name].dtype
        if isinstance(value, torch.Tensor)
        else value == theirs[name] and type(value) is type(theirs[name])
        for name, value in ours.items()
    )


def test_adamw_is_torchs_own() -> None:
    o = Optimisation(learning_rate=1e-3, beta1=0.8, beta2=0.95, epsilon=1e-6, weight_decay=0.1)
    optimizer = build_optimizer(o, [nn.Parameter(torch.ones(3))], CPU)
    assert type(optimizer) is torch.optim.AdamW
    expected = {"lr": 1e-3, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1, "fused": True}
    assert {name: optimizer.param_groups[0][name] for name in expected} == expected


@pytest.mark.parametrize("start", [0.0, 1e-3, 5.0])
def test_adafactors_steps_have_the_length_of_the_rate(start: float) -> None:
    """As published: no relative step and no scaling by the parameter's size, which is zero in a new LoRA."""
    parameter = nn.Parameter(torch.full((64, 64), start))
    optimizer = build_optimizer(
        Optimisation(optimizer="adafactor", learning_rate=1e-2, weight_decay=0.0), [parameter], CPU
    )
    for _ in range(10):
        parameter.sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    torch.testing.assert_close(parameter.detach(), torch.full((64, 64), start - 0.1), rtol=1e-4, atol=1e-6)


def test_adafactor_keeps_rows_and_columns_alone() -> None:
    parameter = nn.Parameter(torch.randn(40, 50))
    optimizer = build_optimizer(Optimisation(optimizer="adafactor"), [parameter], CPU)
    parameter.sum().backward()
    optimizer.step()
    kept = sum(value.numel() for value in optimizer.state[parameter].values() if isinstance(value, torch.Tensor))
    assert kept <= 40 + 50 + 1


@pytest.mark.parametrize("changed", [{"beta1": 0.5}, {"beta2": 0.9}, {"epsilon": 1e-6}])
def test_a_setting_that_adafactor_has_no_use_for(changed: dict[str, float]) -> None:
    with pytest.raises(UserError, match=rf"{next(iter(changed))} is unused with optimizer adafactor"):
        Optimisation(optimizer="adafactor", **changed)
    assert replace(Optimisation(optimizer="adamw-8bit"), **changed)


@pytest.mark.parametrize("name", ["adamw-8bit", "adamw-paged-8bit"])
@pytest.mark.parametrize(
    "error", [None, RuntimeError("CUDA setup failed"), OSError("no libcudart.so\nat all")], ids=str
)
def test_without_bitsandbytes(name: Any, error: Exception | None, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def __getattr__(self, name: str) -> None:
            raise error  # type: ignore[misc]

    monkeypatch.setitem(sys.modules, "bitsandbytes", Broken() if error else None)
    with pytest.raises(UserError, match=f"optimizer {name} needs bitsandbytes; run 'pip install bitsandbytes'") as told:
        build_optimizer(Optimisation(optimizer=name), [nn.Parameter(torch.ones(3))], CPU)
    assert len(str(told.value).splitlines()) == 1
