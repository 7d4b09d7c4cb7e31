"""What is saved loads in stock diffusers (PixArt's adapters in peft), and samples the very same images there."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import families
import pytest
import stock
import torch
from diffusers import DiffusionPipeline
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from training import with_full, with_lora, with_own_network

from contrapose.backbones.base import Backbone
from contrapose.backbones.families.table import load_backbone
from contrapose.backbones.generation import Generation
from contrapose.errors import UserError


def _train(name: str, backbone: Backbone) -> None:
    """A step of plain descent, large enough to be seen."""
    x_t, text = stock.noise(name, backbone.sampler.stock), backbone.text.embed(stock.PROMPTS)
    times = torch.tensor([0.3, 0.7]) if backbone.denoiser.space == "velocity" else torch.tensor([300, 700])
    for _ in range(2):  # half of an adapter is zero, and moves at the second step
        backbone.predict("trainee", x_t, times, text).square().mean().backward()
        with torch.no_grad():
            for parameter in backbone.policies.parameters():
                if parameter.grad is not None:
                    parameter.add_(parameter.grad.sign(), alpha=0.02)
                parameter.grad = None
    backbone.policies.denoiser("trainee")


def _difference(first: Tensor, second: Tensor) -> float:
    return float((first - second).abs().max())


@pytest.mark.parametrize("name", [name for name in families.NAMES if name != "sd-v"])
def test_what_is_saved_draws_the_same(
    name: str,
    folder: Path,
    pipe: DiffusionPipeline,
    backbone: Backbone,
    generation: Callable[..., Generation],
    tmp_path: Path,
) -> None:
    """In stock diffusers and here; saved without the encoders in memory, as in a run."""
    asked = generation(backbone)
    _train(name, backbone)
    drawn, ours = stock.draw(name, backbone.sampler.stock), backbone.sampler.generate(asked)
    backbone.release_encoders()
    backbone.save(tmp_path, {"base": "somewhere"})
    others = {} if (tmp_path / "model").is_dir() else stock.rest_of(pipe)  # a whole pipeline is read whole
    assert torch.equal(stock.draw(name, stock.load_run(name, folder, tmp_path, **others)), drawn)
    assert _difference(stock.draw(name, pipe), drawn) > 1e-3, "the test must see training"
    again = load_backbone(folder, adapter=tmp_path)
    # Sana's cross attention multiplies weights that are trained in another way than others, which may round otherwise
    assert _difference(again.sampler.generate(asked), ours) <= (1e-4 if name == "sana" else 0)
    assert again.sampler.generate(asked, "np").shape == (2, *reversed(stock.size(name)), 3)
    assert again.denoiser.network.dtype == torch.float32


@pytest.mark.parametrize("name", ["sdxl", "flux", "pixart"])
def test_a_saved_run_in_half_precision(
    folder: Path, backbone: Backbone, generation: Callable[..., Generation], tmp_path: Path
) -> None:
    backbone.save(tmp_path)
    ours = backbone.sampler.generate(generation(backbone))
    half = load_backbone(folder, torch.bfloat16, adapter=tmp_path)
    assert {p.dtype for p in half.denoiser.network.parameters()} <= {torch.bfloat16, torch.float32}
    made = half.sampler.generate(generation(half))
    assert 0 < _difference(made.float(), ours) < 0.2 * float(ours.abs().max())


@pytest.mark.parametrize("backbone", ["lora"], indirect=True)
def test_notes_are_in_the_header(name: str, backbone: Backbone, tmp_path: Path) -> None:
    backbone.save(tmp_path, {"base": "somewhere", "method": "ddspo"})
    [path] = tmp_path.glob("*.safetensors")
    with safe_open(path, "pt") as file:
        header, keys = file.metadata(), list(file.keys())
    assert (header["base"], header["method"]) == ("somewhere", "ddspo")
    if name == "pixart":
        config = json.loads((tmp_path / "adapter_config.json").read_text())
    else:
        told = json.loads(header["lora_adapter_metadata"])
        config = {key.partition(".")[2]: value for key, value in told.items()}
        assert {key.partition(".")[0] for key in (*told, *keys)} == {backbone.denoiser.part}
    assert (config["r"], config["lora_alpha"]) == (4, 10.0)
    assert len(keys) == len(backbone.policies.parameters())


def test_every_attention_is_adapted(name: str, plain: Backbone) -> None:
    """Queries, keys and values of each, but the second ones of SD3.5-Medium, as in diffusers' own trainer."""
    network = with_lora(with_own_network(plain), 2, 2.0).denoiser.network
    adapted = {n.removesuffix(".base_layer") for n, _ in network.named_modules() if n.endswith(".base_layer")}
    names = [n for n, _ in network.named_modules() if not (name.startswith("sd3") and ".attn2." in n)]
    projections = {n for n in names if re.search(r"\.(to_[qkv]|add_[qkv]_proj)$", n)}
    assert projections
    assert projections <= adapted
    assert all(re.search(r"attn|attention", n) for n in adapted)


@pytest.fixture(scope="module")
def wide_run(wider_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Adapters of a UNet that is wider than the tiny ones."""
    folder = tmp_path_factory.mktemp("wide")
    with_lora(load_backbone(wider_model), 2, 2.0).save(folder)
    return folder


def test_adapters_of_another_network(folder: Path, wide_run: Path) -> None:
    """Those that fit nowhere must not load as adapters that do nothing."""
    _refused(folder, wide_run)


@pytest.mark.parametrize("name", ["sdxl", "sd3", "pixart"])
def test_adapters_of_another_family(plain: Backbone, tiny_model: Path, tmp_path: Path) -> None:
    with_lora(with_own_network(plain), 2, 2.0).save(tmp_path)
    _refused(tiny_model, tmp_path)


def test_adapters_of_a_deeper_network(tiny_model: Path, loaded: Callable[[str], Backbone], tmp_path: Path) -> None:
    """Some of its layers fit, and the others must not be passed over."""
    with_lora(with_own_network(loaded("sd")), 2, 2.0).save(tmp_path)
    path = tmp_path / "pytorch_lora_weights.safetensors"
    with safe_open(path, "pt") as file:
        header, state = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    more = {key.replace("mid_block.attentions.0", "mid_block.attentions.9"): value for key, value in state.items()}
    assert more.keys() != state.keys()
    save_file({key: value.clone() for key, value in (state | more).items()}, path, metadata=header)
    _refused(tiny_model, tmp_path)


@pytest.mark.parametrize("name", ["sd", "sd3", "pixart"])
@pytest.mark.parametrize("backbone", ["lora", "full"], indirect=True)
def test_a_run_that_is_truncated(backbone: Backbone, folder: Path, tmp_path: Path) -> None:
    backbone.save(tmp_path)
    files = sorted(tmp_path.glob("*.safetensors")) or sorted(tmp_path.glob(f"model/{backbone.denoiser.part}/*.safe*"))
    [path] = files
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    _refused(folder, tmp_path)


@pytest.mark.parametrize("name", ["sd", "sd3"])
def test_a_full_run_of_another_family(plain: Backbone, tiny_family: Any, tmp_path: Path) -> None:
    with_full(with_own_network(plain), torch.float32, needs_reference=False).save(tmp_path)
    _refused(tiny_family("flux"), tmp_path)


def _refused(model: Path, adapter: Path) -> None:
    with pytest.raises(UserError, match=re.escape(str(adapter))) as caught:
        load_backbone(model, adapter=adapter)
    assert len(str(caught.value).splitlines()) == 1
