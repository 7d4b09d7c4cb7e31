"""Layers that adapters are put on: by ends of names, by patterns, by words, and what is said where there are none."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import stock
import torch
from diffusers import DiffusionPipeline
from torch import nn
from training import Training, with_lora, with_own_network

from contrapose.backbones.base import Backbone
from contrapose.backbones.settings import Adapters
from contrapose.errors import UserError

Loaded = Callable[[str], Backbone]


def _on(backbone: Backbone, *targets: str) -> Training:
    return with_lora(with_own_network(backbone), 2, 2.0, adapters=Adapters(lora_targets=targets))


def _adapted(backbone: Backbone) -> set[str]:
    names = (name for name, _ in backbone.denoiser.network.named_modules())
    return {name.removesuffix(".base_layer") for name in names if name.endswith(".base_layer")}


def _linear(network: nn.Module) -> set[str]:
    return {name for name, layer in network.named_modules() if isinstance(layer, nn.Linear)}


def test_ends_of_names(loaded: Loaded) -> None:
    plain = loaded("sd")
    adapted = _adapted(_on(plain, "attn2.to_q", "conv1"))
    names = [name for name, _ in plain.denoiser.network.named_modules()]
    assert adapted == {name for name in names if name.endswith((".attn2.to_q", ".conv1"))}
    assert any(name.endswith("conv1") for name in adapted)


def test_patterns_are_of_whole_names(loaded: Loaded) -> None:
    plain = loaded("sd")
    adapted = _adapted(_on(plain, r"mid_block\..*\.to_[qk]"))
    assert adapted
    assert all(name.startswith("mid_block.") and name[-4:] in ("to_q", "to_k") for name in adapted)


def test_words(loaded: Loaded) -> None:
    plain = loaded("sd")
    assert _adapted(_on(plain, "all-linear")) == _linear(plain.denoiser.network)
    usual = _adapted(with_lora(with_own_network(plain), 2, 2.0))
    assert _adapted(_on(plain, "attention")) == usual
    assert _adapted(_on(plain, "attention", "ff.net.2")) > usual


def test_a_pattern_reaches_no_layer_whose_name_ends_alike(loaded: Loaded) -> None:
    """FLUX has a `proj_out` of its own and one in each block."""
    plain = loaded("flux")
    assert len([name for name in _linear(plain.denoiser.network) if name.endswith("proj_out")]) > 1
    assert _adapted(_on(plain, "proj_ou[t]")) == {"proj_out"}


@pytest.mark.parametrize("targets", [("all-linear",), ("proj_ou[t]",)], ids=str)
def test_stock_diffusers_puts_them_on_the_same_layers(
    targets: tuple[str, ...], loaded: Loaded, stocked: Callable[[str], DiffusionPipeline], tmp_path: Path
) -> None:
    trained = _on(loaded("flux"), *targets)
    with torch.no_grad():
        for parameter in trained.policies.parameters():
            parameter.add_(0.05)
    trained.policies.denoiser("trainee")
    drawn = stock.draw("flux", trained.sampler.stock)
    trained.save(tmp_path)
    pipe = copy.deepcopy(stocked("flux"))
    assert not torch.equal(stock.draw("flux", pipe), drawn)
    pipe.load_lora_weights(tmp_path)
    assert torch.equal(stock.draw("flux", pipe), drawn)


def test_what_matches_nothing_is_told_with_what_there_is(loaded: Loaded) -> None:
    with pytest.raises(UserError) as caught:
        _on(loaded("sd"), "to_q", "to_z")
    assert "lora_targets 'to_z': matches no layer of this model's unet; there are " in str(caught.value)
    assert "attn1.to_out.0" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("targets", "reason"), [((), "name a layer"), (("to_(",), "is no regular expression")])
def test_what_can_be_none_is_refused_at_once(targets: tuple[str, ...], reason: str) -> None:
    with pytest.raises(UserError, match=f"lora_targets.*{reason}"):
        Adapters(lora_targets=targets)


def test_a_start_keeps_its_layers(loaded: Loaded, tmp_path: Path) -> None:
    _on(loaded("sd"), "to_q").save(tmp_path)
    kept = with_lora(with_own_network(loaded("sd")), None, None, start=tmp_path)
    assert all(name.endswith("to_q") for name in _adapted(kept))
    adapters = replace(Adapters(), lora_targets=("to_k",))
    with pytest.raises(UserError, match="has layers of its own, which are kept"):
        with_lora(with_own_network(loaded("sd")), None, None, start=tmp_path, adapters=adapters)
