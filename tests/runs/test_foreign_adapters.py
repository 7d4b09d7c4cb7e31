"""Adapters of other tools do here what they do there, or are refused for what they are."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import aligned
import pytest
import stock
import torch
from adapting import COMMANDS, SETTINGS, Tensors, refused
from diffusers import DiffusionPipeline
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from training import with_full, with_lora, with_own_network

import contrapose
from contrapose.backbones.base import Backbone
from contrapose.backbones.families.table import load_backbone
from contrapose.cli.export import Command, export
from contrapose.guiding.merge import Merge, merge
from contrapose.runs.names import LORA_FILE


def _kohya(run: Path, out: Path, change: Callable[[Tensors], Any] | None = None) -> Path:
    """A run's adapters by kohya's names, which stock diffusers reads too."""
    with safe_open(run / LORA_FILE, "pt") as file:
        told = json.loads(file.metadata()[SETTINGS])
    tensors: Tensors = {}
    for name, value in load_file(run / LORA_FILE).items():
        layer, half = name.removeprefix("unet.").split(".lora_")
        stem = "lora_unet_" + layer.replace(".", "_")
        tensors[f"{stem}.lora_{'down' if half[0] == 'A' else 'up'}.weight"] = value
        tensors[f"{stem}.alpha"] = torch.tensor(told["unet.lora_alpha"])
    if change:
        change(tensors)
    save_file(tensors, out, {"ss_network_module": "networks.lora"})
    return out


def _plain(run: Path, out: Path) -> Path:
    """The same as stock diffusers writes it, without a word of alpha: it is in the weights."""
    with safe_open(run / LORA_FILE, "pt") as file:
        told = json.loads(file.metadata()[SETTINGS])
    factor = told["unet.lora_alpha"] / told["unet.r"]
    tensors = load_file(run / LORA_FILE)
    save_file({n: v * factor if ".lora_B." in n else v for n, v in tensors.items()}, out, {"format": "pt"})
    return out


Loaded = Callable[[str], Backbone]
Stocked = Callable[[str], DiffusionPipeline]
Drawn = Callable[[Path, str], torch.Tensor]


@pytest.fixture(scope="module")
def drawn(tiny_model: Path, loaded: Loaded, stocked: Stocked, tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    """What a stock pipeline draws with a run as a command puts it to use."""

    def draw(run: Path, command: str) -> torch.Tensor:
        if command == "positive":
            with contrapose.guide(stocked("sd"), run):
                return stock.draw("sd", stocked("sd"))
        if command == "merge":
            out = tmp_path_factory.mktemp("merged") / "out"
            merge(Merge(str(tiny_model), run, full=True), out)
            return stock.draw("sd", stock.load("sd", out))
        if command == "adapter":
            return stock.draw("sd", load_backbone(tiny_model, adapter=run).sampler.stock)
        backbone = with_own_network(loaded("sd"))
        if command == "start":
            with_lora(backbone, None, None, start=run).policies.denoiser("trainee")
        if command == "full-start":
            backbone = with_full(backbone, torch.float32, start=run)
        return stock.draw("sd", backbone.sampler.stock)

    return draw


@pytest.fixture(scope="module")
def drawn_by(whole_adapter: Path, drawn: Drawn) -> Callable[[str], torch.Tensor]:
    """What a command draws with the run as `align` leaves it."""
    return cache(lambda command: drawn(whole_adapter, command))


@pytest.fixture(scope="module")
def base(stocked: Stocked) -> torch.Tensor:
    """What is drawn without a run."""
    return stock.draw("sd", stocked("sd"))


@pytest.mark.parametrize("command", ["adapter", "positive", "start", "full-start", "merge"])
@pytest.mark.parametrize("where", ["file", "folder"])
@pytest.mark.parametrize("form", [_kohya, _plain], ids=lambda form: form.__name__.strip("_"))
def test_other_tools_adapters_do_the_same(
    form: Callable[[Path, Path], Path],
    where: str,
    command: str,
    adapter_run: Path,
    drawn: Drawn,
    drawn_by: Callable[[str], torch.Tensor],
    base: torch.Tensor,
    tmp_path: Path,
) -> None:
    (tmp_path / "theirs").mkdir()
    theirs = form(adapter_run, tmp_path / "theirs" / "my lora.safetensors")
    given = theirs if where == "file" else theirs.parent
    expected = drawn_by(command)
    assert aligned.apart(drawn(given, command), expected) < 1e-4
    assert aligned.apart(base, expected) > 1e-2, "the test must see it"


def test_stock_adapters_are_exported(adapter_run: Path, drawn: Drawn, tmp_path: Path) -> None:
    plain = _plain(adapter_run, tmp_path / "plain.safetensors")
    export(Command(plain, tmp_path / "theirs.safetensors", precision="fp32"))
    export(Command(adapter_run, tmp_path / "ours.safetensors", precision="fp32"))
    theirs, ours = (drawn(tmp_path / f"{name}.safetensors", "adapter") for name in ("theirs", "ours"))
    assert aligned.apart(theirs, ours) < 1e-4


def _of_two_ranks(tensors: Tensors) -> None:
    """One layer of another rank, and another of another alpha."""
    first, second = sorted(name.removesuffix(".alpha") for name in tensors if name.endswith(".alpha"))[:2]
    tensors[f"{first}.lora_down.weight"] = tensors[f"{first}.lora_down.weight"][:2].contiguous()
    tensors[f"{first}.lora_up.weight"] = tensors[f"{first}.lora_up.weight"][:, :2].contiguous()
    tensors[f"{second}.alpha"] = torch.tensor(1.5)


def _by_hand(pipe: DiffusionPipeline, file: Path) -> DiffusionPipeline:
    """W + alpha / rank up down for every layer, as kohya's own readers do."""
    tensors = load_file(file)
    for name, module in pipe.unet.named_modules():
        stem = "lora_unet_" + name.replace(".", "_")
        if f"{stem}.lora_up.weight" in tensors:
            up, down, alpha = (tensors[f"{stem}.{n}"] for n in ("lora_up.weight", "lora_down.weight", "alpha"))
            change = up.flatten(1) @ down.flatten(1) * alpha / len(down)
            module.weight.data += change.reshape(module.weight.shape)
    return pipe


@pytest.mark.parametrize("command", ["adapter", "positive", "start", "full-start", "merge"])
def test_ranks_and_alphas_by_layer(
    command: str, adapter_run: Path, drawn: Drawn, loaded: Loaded, stocked: Stocked, tmp_path: Path
) -> None:
    theirs = _kohya(adapter_run, tmp_path / "theirs.safetensors", _of_two_ranks)
    expected = stock.draw("sd", _by_hand(stock.with_own_denoiser(stocked("sd")), theirs))
    assert aligned.apart(drawn(theirs, command), expected) < 1e-4
    if command == "start":  # and they are kept by what it saves
        with_lora(with_own_network(loaded("sd")), None, None, start=theirs).save(tmp_path / "saved")
        assert aligned.apart(drawn(tmp_path / "saved", "adapter"), expected) < 1e-4


def _with_convolutions(tensors: Tensors) -> None:
    """Also on 1x1 and 3x3 convolutions, as kohya's and LoCon do."""
    random = torch.Generator().manual_seed(1)
    for stem, inputs, outputs, side in (
        ("lora_unet_mid_block_attentions_0_proj_in", 32, 32, 1),
        ("lora_unet_down_blocks_0_downsamplers_0_conv", 16, 16, 3),
    ):
        tensors[f"{stem}.lora_down.weight"] = torch.randn(4, inputs, side, side, generator=random) * 0.1
        tensors[f"{stem}.lora_up.weight"] = torch.randn(outputs, 4, 1, 1, generator=random) * 0.1
        tensors[f"{stem}.alpha"] = torch.tensor(2.0)


@pytest.mark.parametrize("command", ["adapter", "positive", "start", "full-start", "merge"])
def test_convolutions(command: str, adapter_run: Path, drawn: Drawn, stocked: Stocked, tmp_path: Path) -> None:
    theirs = _kohya(adapter_run, tmp_path / "theirs.safetensors", _with_convolutions)
    expected = stock.draw("sd", _by_hand(stock.with_own_denoiser(stocked("sd")), theirs))
    assert aligned.apart(drawn(theirs, command), expected) < 1e-4


def _for_the_text(tensors: Tensors) -> None:
    random = torch.Generator().manual_seed(2)
    for layer in ("self_attn_q_proj", "self_attn_out_proj"):
        stem = f"lora_te_text_model_encoder_layers_0_{layer}"
        tensors[f"{stem}.lora_down.weight"] = torch.randn(4, 32, generator=random)
        tensors[f"{stem}.lora_up.weight"] = torch.randn(32, 4, generator=random)
        tensors[f"{stem}.alpha"] = torch.tensor(4.0)


def test_layers_of_text_encoders(adapter_run: Path, tiny_model: Path, tmp_path: Path) -> None:
    """`sample --adapter` and `merge` take them, as stock diffusers does; the others say that they do not."""
    theirs = _kohya(adapter_run, tmp_path / "run" / "theirs.safetensors", _for_the_text)
    pipe = stock.load("sd", tiny_model)
    without = pipe.encode_prompt("a red circle", "cpu", 1, False)[0]
    pipe.load_lora_weights(theirs)
    expected = pipe.encode_prompt("a red circle", "cpu", 1, False)[0]
    assert not torch.allclose(expected, without, atol=1e-3)
    merge(Merge(str(tiny_model), theirs), tmp_path / "merged")
    for adapter in (theirs, tmp_path / "merged"):
        embedded = load_backbone(tiny_model, adapter=adapter).text.embed(["a red circle"])["text"]
        assert torch.allclose(embedded, expected, atol=1e-5)
    for command in ("positive", "start", "policies", "full-start"):
        refused(command, theirs, tiny_model, "has adapters of the text_encoder too, which only 'sample --adapter'")


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "export"])
def test_a_lora_of_the_text_encoder_alone(command: str, tiny_model: Path, tmp_path: Path) -> None:
    tensors: Tensors = {}
    _for_the_text(tensors)
    save_file(tensors, tmp_path / "text.safetensors")
    refused(command, tmp_path / "text.safetensors", tiny_model, "is a LoRA of the text encoder alone")


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "export"])
def test_a_lora_of_another_family(command: str, loaded: Loaded, tiny_model: Path, tmp_path: Path) -> None:
    with_lora(with_own_network(loaded("flux")), 2, 2.0).save(tmp_path / "run")
    refused(command, tmp_path / "run", tiny_model, "holds no adapters of this model's unet, but of transformer")


@pytest.mark.parametrize("name", ["sdxl"])
def test_kohyas_names_of_two_text_encoders(folder: Path, tmp_path: Path) -> None:
    """Read as stock diffusers reads them, with the alphas of every layer."""
    random = torch.Generator().manual_seed(3)
    tensors: Tensors = {}
    for stem, width in (
        ("lora_unet_down_blocks_0_attentions_0_transformer_blocks_1_attn1_to_q", 16),
        ("lora_unet_down_blocks_0_attentions_0_transformer_blocks_1_attn1_to_out_0", 16),
        ("lora_te1_text_model_encoder_layers_0_self_attn_q_proj", 16),
        ("lora_te1_text_model_encoder_layers_0_self_attn_out_proj", 16),
        ("lora_te2_text_model_encoder_layers_0_self_attn_k_proj", 24),
        ("lora_te2_text_model_encoder_layers_0_self_attn_out_proj", 24),
    ):
        tensors[f"{stem}.lora_down.weight"] = torch.randn(4, width, generator=random)
        tensors[f"{stem}.lora_up.weight"] = torch.randn(width, 4, generator=random)
        tensors[f"{stem}.alpha"] = torch.tensor(2.0)
    save_file(tensors, tmp_path / "theirs.safetensors")
    pipe = stock.load("sdxl", folder)
    pipe.load_lora_weights(tmp_path / "theirs.safetensors")
    backbone = load_backbone(folder, adapter=tmp_path / "theirs.safetensors")
    text = pipe.encode_prompt("a red circle", device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False)
    made, base = (one.text.embed(["a red circle"])["text"] for one in (backbone, load_backbone(folder)))
    assert torch.allclose(made, text[0], atol=1e-5)
    assert not torch.allclose(made, base, atol=1e-3)
    assert aligned.apart(stock.draw("sdxl", backbone.sampler.stock), stock.draw("sdxl", pipe)) < 1e-4
