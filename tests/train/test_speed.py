"""Speed: compiled, with other kernels and memory layouts, the same numbers but for rounding; or one clear line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry
from trained import weights_of

from contrapose.backbones import speed
from contrapose.backbones.families.table import load_backbone
from contrapose.backbones.settings import AttentionName, Haste
from contrapose.backbones.speed import hasten
from contrapose.draw.pairs import draw_pairs, plan_pairs
from contrapose.draw.settings import Draw
from contrapose.errors import UserError
from contrapose.guiding.settings import Guiding, Sampling
from contrapose.methods import DDSPO
from contrapose.train.align import align
from contrapose.train.settings import Optimisation, Run, Watching

CPU = torch.device("cpu")
Family = Callable[[str], Path]


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """What torch.compile has taken apart, and runs as it is: no compiler is needed."""
    taken: list[Any] = []

    def keep(graph: Any, _: Any) -> Any:
        taken.append(graph)
        return graph.forward

    monkeypatch.setattr(speed, "COMPILER", keep)
    yield taken
    torch._dynamo.reset()


def _hasten(family: Path, settings: Haste, trained: bool = False) -> Any:
    network = load_backbone(family).denoiser.network
    hasten([network], settings, torch.float32, CPU, trained)
    return network


# Attention


def test_the_kernels_are_diffusers_but_for_code_of_the_hub_and_other_devices() -> None:
    names = {name.value for name in AttentionBackendName}
    assert set(get_args(AttentionName)) == {name for name in names if not name.endswith(("_hub", "_npu", "_xla"))}


def test_attention_is_the_networks_own_and_no_others(tiny_family: Family) -> None:
    before = _AttentionBackendRegistry._active_backend
    network = _hasten(tiny_family("flux"), Haste(attention="_native_math"), trained=True)
    processors = [module.processor for module in network.modules() if hasattr(module, "processor")]
    assert {processor._attention_backend for processor in processors} == {"_native_math"}
    assert _AttentionBackendRegistry._active_backend == before


@pytest.mark.parametrize(
    ("family", "name", "trained", "told"),
    [
        ("flux", "flash", False, "attention flash: cannot be used here on cpu in float32: .*flash-attn"),
        ("flux", "sage", False, "attention sage: cannot be used here .*sageattention"),
        ("flux", "flex", True, "attention flex: cannot be used here .*backward"),
        (
            "sd",
            "native",
            False,
            "attention native: a UNet2DConditionModel of diffusers has torch's own",
        ),
    ],
)
def test_kernels_that_cannot_be_used_are_told_in_one_line(
    tiny_family: Family, family: str, name: Any, trained: bool, told: str
) -> None:
    with pytest.raises(UserError, match=told) as caught:
        _hasten(tiny_family(family), Haste(attention=name), trained)
    assert "\n" not in str(caught.value)


def test_kernels_without_a_backward_pass_are_not_trained_with(
    tiny_family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "dispatch_attention_fn", lambda query, *_: query.detach() + query.sum() * 0)
    _hasten(tiny_family("flux"), Haste(attention="native"))
    monkeypatch.setattr(speed, "dispatch_attention_fn", lambda query, *_: torch.ones(1, requires_grad=True))
    with pytest.raises(UserError, match="it has no backward pass"):
        _hasten(tiny_family("flux"), Haste(attention="native"), trained=True)


# Memory layout, TF32 and compilers


def test_convolutions_lie_with_channels_innermost(tiny_model: Path, tiny_family: Family) -> None:
    network = _hasten(tiny_model, Haste(channels_last=True))
    assert network.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    with pytest.raises(UserError, match="channels_last: a FluxTransformer2DModel has no convolutions"):
        _hasten(tiny_family("flux"), Haste(channels_last=True))


def test_tf32_lasts_until_the_next_run_without_it(tiny_model: Path) -> None:
    _hasten(tiny_model, Haste(tf32=True))
    assert torch.get_float32_matmul_precision() == "high"
    _hasten(tiny_model, Haste())
    assert torch.get_float32_matmul_precision() == "highest"


def test_a_missing_compiler_is_told_in_one_line(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> str:
        raise RuntimeError("No working C++ compiler found")

    monkeypatch.setattr("torch._inductor.cpp_builder.get_cpp_compiler", missing)
    with pytest.raises(UserError, match=r"compile: needs a C\+\+ compiler \(No working"):
        _hasten(tiny_model, Haste(compile=True))


def test_what_guides_is_not_compiled() -> None:
    guiding = Guiding(positive=Path("run"))
    with pytest.raises(UserError, match="compile: guidance by runs calls the network in its own way"):
        Sampling("model", ("prompts.txt",), guiding=guiding, speed=Haste(compile=True))


# Runs


@pytest.fixture
def run(tiny_model: Path, tiny_pairs: Path) -> Run:
    optimisation = Optimisation(learning_rate=1e-3, train_steps=2, batch_size=2, micro_batch=2, epsilon=1e-2)
    watching = Watching(holdout=0, save_every=1, trackers=())
    return Run(str(tiny_model), tiny_pairs, DDSPO(beta=200.0), optimisation=optimisation, watching=watching)


def _losses(run: Run, out: Path) -> list[float]:
    return [state.metrics["loss"] for state in align(run, out) if state.metrics]


@pytest.mark.slow
@pytest.mark.parametrize("full", [False, True], ids=["lora", "full"])
def test_a_compiled_run_is_the_same_run(run: Run, full: bool, tmp_path: Path, graphs: list[Any]) -> None:
    """Compiled once for the trainee and once for the reference, though LoRA's are one network."""
    run = replace(run, full=full)
    usual = _losses(run, tmp_path / "usual")
    assert not graphs
    compiled = replace(run, speed=Haste(compile=True))
    assert _losses(compiled, tmp_path / "compiled") == pytest.approx(usual, rel=1e-5)
    assert len(graphs) == 2
    expected = weights_of(tmp_path / "usual")
    saved = weights_of(tmp_path / "compiled")
    assert saved.keys() == expected.keys() and not any("_orig_mod" in name for name in saved)
    assert all(torch.allclose(value, expected[name], atol=1e-5) for name, value in saved.items())


@pytest.mark.parametrize("full", [False, True], ids=["lora", "full"])
def test_a_run_goes_on_in_another_layout(run: Run, full: bool, tmp_path: Path) -> None:
    """To begin in it, leave it and come back changes a run by rounding; its settings tell what it began with."""
    run = replace(run, full=full)
    usual = _losses(run, tmp_path / "usual")
    fast = replace(run, speed=Haste(channels_last=True))
    states = align(fast, tmp_path / "fast")
    losses = [state.metrics["loss"] for _, state in zip(range(2), states, strict=False) if state.metrics]
    states.close()
    assert "channels_last: true" in (tmp_path / "fast/run.yaml").read_text()
    losses += _losses(run, tmp_path / "fast")
    assert losses == pytest.approx(usual, rel=1e-5)
    expected = weights_of(tmp_path / "usual")
    assert all(torch.allclose(value, expected[n], atol=1e-5) for n, value in weights_of(tmp_path / "fast").items())


def test_pairs_are_carried_on_at_another_speed(tiny_model: Path, prompts_file: Path, tmp_path: Path) -> None:
    backbone = load_backbone(tiny_model)
    draw = Draw(str(tiny_model), (str(prompts_file),), steps=1, shard_size=2)
    states = draw_pairs(draw, plan_pairs(draw), backbone, tmp_path / "pairs")
    next(states)
    states.close()
    fast = replace(draw, speed=Haste(tf32=True))
    assert list(draw_pairs(fast, plan_pairs(fast), backbone, tmp_path / "pairs"))
