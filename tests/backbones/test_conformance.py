"""One suite over every family x {LoRA, full}: what the contract promises of policies and predictions."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import families
import pytest
import stock
import torch
from diffusers import DiffusionPipeline
from torch import Tensor
from training import with_full, with_lora, with_own_network
from waiting import copies

from contrapose.backbones.base import Backbone
from contrapose.backbones.families.table import load_backbone


def _inputs(name: str, backbone: Backbone) -> dict[str, Any]:
    x_t = stock.noise(name, backbone.sampler.stock)
    t = torch.tensor([0.05, 0.9])
    t = t if backbone.denoiser.space == "velocity" else (t * 1000).long()
    return {"x_t": x_t, "t": t, "condition": backbone.text.embed(stock.PROMPTS)}


@pytest.fixture(scope="module")
def inputs_of(loaded: Callable[[str], Backbone]) -> Callable[[str], dict[str, Any]]:
    return cache(lambda name: _inputs(name, loaded(name)))


@pytest.fixture
def inputs(name: str, inputs_of: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    """Two latents that are not square, with times and texts; shared, so they stay as they are."""
    return inputs_of(name)


@torch.no_grad()
def _predict(backbone: Backbone, policy: str, inputs: dict[str, Any]) -> Tensor:
    return backbone.predict(policy, **inputs)


def _train_one_step(backbone: Backbone, inputs: dict[str, Any], rate: float = 1.0) -> None:
    backbone.predict("trainee", **inputs).square().mean().backward()
    torch.optim.SGD(backbone.policies.parameters(), rate).step()


def test_the_trainee_starts_as_the_reference(backbone: Backbone, inputs: dict[str, Any]) -> None:
    trainee, reference = (_predict(backbone, policy, inputs) for policy in ("trainee", "reference"))
    assert torch.equal(trainee, reference)
    assert trainee.shape == inputs["x_t"].shape
    assert trainee.std() > 0


@pytest.mark.parametrize("full", [False, True], ids=["lora", "full"])
def test_the_trainee_starts_as_the_reference_in_bf16(
    name: str, full: bool, halved: Callable[[str, bool], Backbone], inputs: dict[str, Any]
) -> None:
    """In the layout of a run: adapters on a bf16 base, or float32 weights beside a frozen copy that is bf16."""
    backbone = with_own_network(halved(name, full))
    with torch.no_grad():  # no weight that is one or zero, which have no digits to lose
        for parameter in backbone.denoiser.network.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(6)))
    backbone = with_full(backbone, torch.bfloat16) if full else with_lora(backbone, 4, 10.0)
    with torch.autocast("cpu", torch.bfloat16):
        trainee, reference = (_predict(backbone, policy, inputs) for policy in ("trainee", "reference"))
    assert torch.equal(trainee, reference)
    assert not full or not torch.equal(trainee, _predict(backbone, "trainee", inputs)), "the test must see rounding"


def _trainable(name: str, backbone: Backbone) -> dict[str, torch.nn.Parameter]:
    """What is trained, by name, but for weights that no prediction depends on."""
    named = backbone.policies.modules()[0].named_parameters()
    return {n: p for n, p in named if p.requires_grad and not re.search(families.of(name).unread, n)}


def test_gradients_only_where_they_belong(name: str, backbone: Backbone, inputs: dict[str, Any]) -> None:
    assert not backbone.predict("reference", **inputs).requires_grad
    backbone.predict("trainee", **inputs).square().mean().backward()
    trainable = _trainable(name, backbone)
    reached = [p.grad is not None and bool(p.grad.any()) for p in trainable.values()]
    assert sum(reached) >= 0.45 * len(reached), "adapters start with half of their weights at zero"
    trained = {id(p) for p in backbone.policies.parameters()}
    modules = [m for m in backbone.sampler.stock.components.values() if isinstance(m, torch.nn.Module)]
    modules.append(backbone.policies.denoiser("reference"))
    others = [p for module in modules for p in module.parameters() if id(p) not in trained]
    assert others
    assert all(p.grad is None for p in others)


@pytest.mark.parametrize("name", families.DISTINCT)
def test_all_that_is_trained_is_reached(name: str, backbone: Backbone, inputs: dict[str, Any]) -> None:
    """After a first step, when no adapter is zero any more."""
    _train_one_step(backbone, inputs)
    for parameter in backbone.policies.parameters():
        parameter.grad = None
    backbone.predict("trainee", **inputs).square().mean().backward()
    assert [n for n, p in _trainable(name, backbone).items() if p.grad is None] == []


@torch.no_grad()
def test_one_without_values_predicts_alike_once_it_has_them(
    folder: Path, plain: Backbone, inputs: dict[str, Any]
) -> None:
    """As processes that do not read a network in shards have it; tables that are no buffers are there at once."""
    empty = load_backbone(folder, without_values=("denoiser",))
    assert all(parameter.is_meta for parameter in empty.denoiser.network.parameters())
    network = empty.denoiser.network.to("meta").to_empty(device="cpu")
    values = _tensors(plain.denoiser.network)
    for name, tensor in _tensors(network).items():
        assert tensor.dtype == values[name].dtype
        tensor.copy_(values.pop(name))
    assert not values
    predictions = [each.denoiser.denoise(each.denoiser.network, **inputs) for each in (empty, plain)]
    assert torch.equal(*predictions)


@torch.no_grad()
def test_an_autoencoder_alone_encodes_and_decodes_alike(folder: Path, plain: Backbone, inputs: dict[str, Any]) -> None:
    """As imports and exports have it; of the other networks there are forms, and no values."""
    alone = load_backbone(folder, without_values=("denoiser", "text_encoders"))
    unread = [alone.denoiser.network, *alone.pipeline.encoders.values()]
    assert len(unread) > 1
    assert all(parameter.is_meta for network in unread for parameter in network.parameters())
    images = plain.images.decode(inputs["x_t"])
    assert torch.equal(alone.images.decode(inputs["x_t"]), images)
    assert torch.equal(alone.images.encode(images), plain.images.encode(images))
    assert alone.fingerprint == plain.fingerprint


@torch.no_grad()
def test_the_host_waits_for_no_copy(plain: Backbone, inputs: dict[str, Any]) -> None:
    """What a prediction makes beside its inputs, such as places and sizes, is made on the device."""
    network = copy.deepcopy(plain.denoiser.network).to("meta")
    condition: dict[str, Tensor] = {}
    for name, value in inputs["condition"].items():
        condition[name] = value.to("meta") if value.is_floating_point() else value
    with copies() as lines:
        answer = plain.denoiser.denoise(network, inputs["x_t"].to("meta"), inputs["t"].to("meta"), condition)
    assert answer.is_meta
    assert not lines


def _tensors(network: torch.nn.Module) -> dict[str, Tensor]:
    return dict(network.named_parameters()) | dict(network.named_buffers())


@pytest.mark.parametrize("name", ["sd", "sd3", "pixart"])
def test_the_optimiser_sees_the_weights_that_are_saved(backbone: Backbone) -> None:
    parameters, state = backbone.policies.parameters(), backbone.policies.state()
    assert len({id(p) for p in parameters}) == len(parameters)
    trained = {id(p) for p in backbone.policies.modules()[0].parameters() if p.requires_grad}
    assert trained == {id(p) for p in parameters}
    assert all(p.dtype == torch.float32 for p in parameters)
    saved = {value.data_ptr() for value in state.values()}
    assert {p.data_ptr() for p in parameters} <= saved


def test_a_step_moves_the_trainee_alone(backbone: Backbone, inputs: dict[str, Any]) -> None:
    before = _predict(backbone, "reference", inputs)
    _train_one_step(backbone, inputs)
    assert torch.equal(_predict(backbone, "reference", inputs), before)
    assert (_predict(backbone, "trainee", inputs) - before).abs().max() > 1e-5


@pytest.mark.parametrize("name", families.DISTINCT)
def test_the_order_of_policies_does_not_matter(backbone: Backbone, inputs: dict[str, Any]) -> None:
    """Adapters are switched on and off on one module: a policy must not depend on which was asked before."""
    _train_one_step(backbone, inputs)
    names = ("trainee", "reference", "trainee", "trainee", "reference")
    answers = [(name, _predict(backbone, name, inputs)) for name in names]
    for name, answer in answers:
        assert torch.equal(answer, answers[names.index(name)][1])


@pytest.mark.parametrize("name", families.DISTINCT)
def test_state_round_trip(backbone: Backbone, inputs: dict[str, Any]) -> None:
    _train_one_step(backbone, inputs)
    state = {name: value.clone() for name, value in backbone.policies.state().items()}
    moved = _predict(backbone, "trainee", inputs)
    _train_one_step(backbone, inputs)
    assert not torch.equal(_predict(backbone, "trainee", inputs), moved)
    backbone.policies.load_state(state)
    assert torch.equal(_predict(backbone, "trainee", inputs), moved)


@torch.no_grad()
def _agree(name: str, backbone: Backbone, calls: list[stock.Call]) -> None:
    for call in calls:
        x_t, t, condition, expected = families.of(name).meaning(call)
        for policy in ("reference", "trainee"):
            ours = backbone.predict(policy, x_t, t, condition)
            assert ours.shape == expected.shape
            assert (ours - expected).abs().max() < 1e-5


def test_predictions_are_the_stock_pipelines(name: str, pipe: DiffusionPipeline, backbone: Backbone) -> None:
    with stock.recorded(stock.denoiser_of(pipe)) as calls:
        stock.draw(name, pipe)
    assert len(calls) == 2
    assert len({float(call.output[0].abs().sum()) for call in calls}) == 2
    _agree(name, backbone, calls)


def test_sana_scales_its_time(tiny_family: Any, loaded: Any) -> None:
    """As SANA-Sprint's and SANA-1.5's configurations may ask for."""
    pipe, backbone = stock.load("sana", tiny_family("sana")), with_lora(load_backbone(tiny_family("sana")), 2, 2.0)
    for network in (pipe.transformer, backbone.denoiser.network):
        network.register_to_config(timestep_scale=0.001)
    with stock.recorded(pipe.transformer) as calls:
        stock.draw("sana", pipe)
    assert all(call.inputs["timestep"].max() <= 1 for call in calls)
    for call in calls:
        call.inputs["timestep"] = call.inputs["timestep"] / 0.001
    _agree("sana", backbone, calls)


@pytest.mark.parametrize("scale", [1.0, 6.0])
def test_distilled_guidance_is_what_the_network_is_fed(scale: float, tiny_family: Any, stocked: Any) -> None:
    backbone = with_lora(load_backbone(tiny_family("flux")), 2, 2.0)
    backbone.denoiser.feed_guidance(scale)
    with stock.recorded(stocked("flux").transformer) as calls:
        stock.draw("flux", stocked("flux"), guidance_scale=scale)
    assert (calls[0].inputs["guidance"] == scale).all()
    for call in calls:
        call.inputs["guidance"] = call.inputs["guidance"] * 0 + stock.GUIDANCE
    _agree("flux", backbone, calls)


def test_without_a_reference_there_is_none(tiny_model: Path) -> None:
    with pytest.raises(KeyError):
        with_full(load_backbone(tiny_model), torch.float32, needs_reference=False).policies.denoiser("reference")
