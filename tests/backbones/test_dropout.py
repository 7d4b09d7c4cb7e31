"""Dropout by position: what a row loses is of its seed and layer alone, and as much as is asked for."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import stock
import torch
from torch import Tensor
from training import Training, with_lora, with_own_network

from contrapose.backbones.base import Backbone
from contrapose.backbones.dropout import DropoutByPosition, SeededRows, words_of
from contrapose.backbones.settings import Adapters
from contrapose.errors import UserError

SEEDS = [2**61 + 5, 77, 3]


def _dropped(x: Tensor, seeds: list[int], share: float = 0.3, layer: str = "mid.to_q") -> Tensor:
    rows = SeededRows()
    rows.count = len(x)
    with rows.of(words_of(seeds)):
        return DropoutByPosition(share, layer, rows)(x)


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_a_share_is_left_out_and_the_mean_is_kept(share: float) -> None:
    x = torch.ones(3, 500, 64)
    kept = _dropped(x, SEEDS, share)
    of_rows = (kept == 0).float().mean((1, 2))
    # 32,000 draws a row: five deviations of a share are below 0.014
    assert torch.allclose(of_rows, torch.full((3,), share), atol=0.014)
    assert torch.unique(kept).tolist() == pytest.approx([0.0, 1 / (1 - share)])


def test_draws_are_independent() -> None:
    """Of places side by side, of channels, of rows and of layers."""
    x = torch.ones(3, 500, 64)
    first, other = _dropped(x, SEEDS, 0.5) > 0, _dropped(x, SEEDS, 0.5, "mid.to_k") > 0
    pairs = [(first[:, :-1], first[:, 1:]), (first[..., :-1], first[..., 1:]), (first[:-1], first[1:]), (first, other)]
    for one, two in pairs:
        assert float((one == two).float().mean()) == pytest.approx(0.5, abs=0.015)


def test_a_row_is_its_own_wherever_it_stands() -> None:
    x = torch.ones(3, 20, 8)
    together = _dropped(x, SEEDS)
    assert all(torch.equal(_dropped(x[i : i + 1], SEEDS[i : i + 1])[0], together[i]) for i in range(3))
    assert torch.equal(_dropped(x.flip(0), SEEDS[::-1]), together.flip(0))
    longer = _dropped(torch.ones(3, 33, 8), SEEDS)
    assert torch.equal(longer[:, :20], together), "text that is padded further"
    twice = _dropped(torch.cat([x, x]), SEEDS)
    assert torch.equal(twice, torch.cat([together, together])), "winner and loser of a position"


def test_nothing_is_dropped_without_seeds() -> None:
    x = torch.ones(3, 20)
    assert DropoutByPosition(0.5, "mid.to_q", SeededRows())(x) is x


def test_a_layer_that_mixes_rows_is_named() -> None:
    rows = SeededRows()
    rows.count = 2
    with (
        rows.of(words_of(SEEDS[:2])),
        pytest.raises(UserError, match=r"lora_dropout: mid\.to_q does not read the rows"),
    ):
        DropoutByPosition(0.5, "mid.to_q", rows)(torch.ones(40, 8))


def _training(backbone: Backbone) -> Training:
    torch.manual_seed(0)
    adapters = Adapters(lora_dropout=0.5)
    trained = with_lora(with_own_network(backbone), 2, 2.0, frozen={"lagged": None}, adapters=adapters)
    with torch.no_grad():
        for parameter in trained.policies.parameters():
            parameter.add_(0.1)
    trained.policies.copy()
    trained.denoiser.network.train()
    return trained


@pytest.mark.parametrize("name", ["sd", "sana", "flux", "z-image"])
def test_what_is_trained_drops_out_and_what_is_frozen_does_not(name: str, loaded: Callable[[str], Backbone]) -> None:
    """A recomputed forward drops the same, and rows are told apart in every family's layers."""
    trained = _training(loaded(name))
    x_t, text = stock.noise(name, trained.sampler.stock), trained.text.embed(stock.PROMPTS)
    t = torch.tensor([0.3, 0.7]) if trained.denoiser.space == "velocity" else torch.tensor([300, 700])
    whole = trained.predict("trainee", x_t, t, text)
    frozen = {policy: trained.predict(policy, x_t, t, text) for policy in ("reference", "lagged")}
    gradients = []
    with trained.policies.rows.of(words_of(SEEDS[:2])):
        for recomputed in (False, True):
            if recomputed:
                trained.denoiser.network.enable_gradient_checkpointing()
            less = trained.predict("trainee", x_t, t, text)
            less.square().mean().backward()
            gradients.append([parameter.grad for parameter in trained.policies.parameters()])
            for parameter in trained.policies.parameters():
                parameter.grad = None
        assert all(torch.equal(trained.predict(policy, x_t, t, text), frozen[policy]) for policy in frozen)
        row = {key: value[:1] for key, value in text.items()}
    assert not torch.allclose(less, whole, atol=1e-4)
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))
    with trained.policies.rows.of(words_of(SEEDS[:1])):
        assert torch.allclose(trained.predict("trainee", x_t[:1], t[:1], row), less[:1], atol=1e-5)
