"""A file of kohya's form does to a model what the run did, read by the rule that other tools follow."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import families
import pytest
import stock
import torch
from diffusers import DiffusionPipeline
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from training import with_lora, with_own_network

from contrapose.backbones.base import Backbone
from contrapose.backbones.families.table import KOHYA_LAYOUTS, load_backbone
from contrapose.errors import UserError
from contrapose.runs import kohya
from contrapose.runs.names import FINISHED, LORA_FILE, RUN_FILE
from contrapose.runs.steps import step_folder

convert = partial(kohya.convert, layouts=KOHYA_LAYOUTS)
RANK, ALPHA = 4, 5.3  # no float16, and no power of two away from the rank
NOTES = {"base": "tiny", "method": "ddspo"}


Stocked = Callable[[str], DiffusionPipeline]


@dataclass(frozen=True)
class Aligned:
    """A tiny model, a folder with random adapters for it, and one call of its denoiser with and without them."""

    model: Path
    run: Path
    arguments: tuple[tuple[Any, ...], dict[str, Any]]
    base: Tensor
    aligned: Tensor


def _draw(pipe: DiffusionPipeline, name: str) -> Tensor:
    call = {"num_inference_steps": 2, "output_type": "latent", **families.of(name).call}
    return pipe(prompt=["a red circle"], generator=torch.Generator().manual_seed(0), **call).images


@torch.no_grad()
def _answer(network: nn.Module, arguments: tuple[tuple[Any, ...], dict[str, Any]]) -> Tensor:
    answer = network(*arguments[0], **arguments[1])[0]
    return torch.stack(answer) if isinstance(answer, (list, tuple)) else answer


@pytest.fixture(scope="module")
def align(
    tiny_family: Callable[[str], Path],
    loaded: Callable[[str], Backbone],
    stocked: Stocked,
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], Aligned]:
    """A family's model with random adapters, made once."""

    @cache
    def made(name: str) -> Aligned:
        network, run = stock.denoiser_of(stocked(name)), tmp_path_factory.mktemp("kohya")
        calls: list[Any] = []
        hook = network.register_forward_pre_hook(lambda _, *given: calls.append(given), with_kwargs=True)
        _draw(stocked(name), name)
        hook.remove()
        backbone = with_lora(with_own_network(loaded(name)), RANK, ALPHA)
        stream = torch.Generator().manual_seed(1)
        for parameter in backbone.policies.parameters():
            parameter.data = 0.2 * torch.randn(parameter.shape, generator=stream)
        backbone.save(run, NOTES)
        aligned = _answer(backbone.policies.denoiser("trainee"), calls[0])
        return Aligned(tiny_family(name), run, calls[0], _answer(network, calls[0]), aligned)

    return made


def _merge(path: Path, network: nn.Module, prefix: str) -> None:
    """What ComfyUI does at strength 1: W + alpha / rank * up @ down, for every layer that it knows by name."""
    tensors = load_file(path)
    for name, module in network.named_modules():
        stem = prefix + (name if prefix.endswith(".") else name.replace(".", "_"))
        if f"{stem}.lora_up.weight" in tensors:
            up, down, alpha = (tensors.pop(f"{stem}.{n}") for n in ("lora_up.weight", "lora_down.weight", "alpha"))
            module.weight.data += alpha.item() / down.shape[0] * up.float() @ down.float()
    assert not tensors


def _header(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return file.metadata()


@pytest.mark.parametrize("name", families.DISTINCT)
def test_another_reader_gets_the_trained_network(
    name: str, align: Callable[[str], Aligned], stocked: Stocked, tmp_path: Path
) -> None:
    made, out = align(name), tmp_path / "lora.safetensors"
    num_layers = convert(made.run, out, dtype=torch.float32)
    assert len(load_file(out)) == 3 * num_layers > 0
    network = copy.deepcopy(stock.denoiser_of(stocked(name)))
    _merge(out, network, families.of(name).kohya)
    difference = (_answer(network, made.arguments) - made.aligned).abs().max()
    assert difference < 1e-5 * made.aligned.abs().max().clamp(min=1)
    assert (made.aligned - made.base).abs().max() > 1e-2, "the test must see the adapters"


@pytest.mark.parametrize("name", families.names(kohya_read=True, variant_of=None))
def test_stock_diffusers_draws_the_same_with_either_file(
    name: str, align: Callable[[str], Aligned], stocked: Stocked, tmp_path: Path
) -> None:
    made, out = align(name), tmp_path / "lora.safetensors"
    convert(made.run, out, dtype=torch.float32)
    ours, theirs = (stock.with_own_denoiser(stocked(name)) for _ in range(2))
    ours.load_lora_weights(made.run)
    theirs.load_lora_weights(out)
    expected = _draw(ours, name)
    assert (_draw(theirs, name) - expected).abs().max() < 2e-5
    assert (_draw(stocked(name), name) - expected).abs().max() > 1e-2


def test_the_weights_are_rounded_once_and_alpha_never(align: Callable[[str], Aligned], tmp_path: Path) -> None:
    made = align("sd")
    convert(made.run, tmp_path / "fp32.safetensors", dtype=torch.float32)
    exact = load_file(tmp_path / "fp32.safetensors")
    for dtype in (torch.float16, torch.bfloat16):
        convert(made.run, tmp_path / "half.safetensors", dtype=dtype)
        for key, value in load_file(tmp_path / "half.safetensors").items():
            expected = torch.tensor(ALPHA) if key.endswith(".alpha") else exact[key].to(dtype)
            assert value.dtype == expected.dtype
            assert torch.equal(value, expected)


# The header


def _run_of_one_layer(folder: Path, layer: str, width: int) -> Path:
    folder.mkdir()
    part = layer.partition(".")[0]
    tensors = {f"{layer}.lora_A.weight": torch.ones(2, width), f"{layer}.lora_B.weight": torch.ones(8, 2)}
    config = json.dumps({f"{part}.r": 2, f"{part}.lora_alpha": 3.0})
    save_file(tensors, folder / LORA_FILE, metadata={"lora_adapter_metadata": config, **NOTES})
    return folder


ATTENTION = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k"


@pytest.mark.parametrize(
    ("layer", "width", "base", "architecture"),
    [
        (ATTENTION, 768, "sd_v1", "stable-diffusion-v1/lora"),
        (ATTENTION, 1024, "sd_v2", None),
        (ATTENTION, 2048, "sdxl_base_v1-0", "stable-diffusion-xl-v1-base/lora"),
        (ATTENTION, 32, None, None),
        ("transformer.single_transformer_blocks.0.attn.to_k", 3072, "flux1", "flux-1/lora"),
        ("transformer.single_transformer_blocks.0.attn.to_qkv_mlp_proj", 3072, None, None),
        ("transformer.transformer_blocks.0.attn.to_k", 1536, None, None),
        ("transformer.transformer_blocks.40.attn.to_k", 3072, None, None),
    ],
)
def test_the_header_names_the_model_where_the_layers_tell(
    tmp_path: Path, layer: str, width: int, base: str | None, architecture: str | None
) -> None:
    run = _run_of_one_layer(tmp_path / "run", layer, width)
    assert convert(run, tmp_path / "red.safetensors", dtype=torch.float16) == 1
    header = _header(tmp_path / "red.safetensors")
    assert header.get("ss_base_model_version") == base
    assert header.get("modelspec.architecture") == architecture
    assert (header.get("modelspec.title") == "red") is (architecture is not None)
    told = {"ss_network_module": "networks.lora", "ss_network_dim": "2", "ss_network_alpha": "3", **NOTES}
    assert told.items() <= header.items()
    assert not any("/" in value for value in header.values() if value != architecture), "no path of this machine"


def test_the_header_tells_of_the_training_where_a_run_does(tmp_path: Path) -> None:
    run = _run_of_one_layer(tmp_path / "run", ATTENTION, 2048)
    (run / RUN_FILE).write_text("optimisation: {train_steps: 300, learning_rate: 1.0e-05, schedule: constant}\nseed: 7")
    step_folder(run, 100).mkdir(parents=True)
    (step_folder(run, 100) / LORA_FILE).write_bytes((run / LORA_FILE).read_bytes())
    (run / FINISHED).write_text('{"steps": 300}')
    for name, step in ((run, "300"), (f"{run}@100", "100")):
        convert(Path(name), tmp_path / "a.safetensors")
        header = _header(tmp_path / "a.safetensors")
        assert header["ss_steps"] == step and header["ss_max_train_steps"] == "300"
        assert (header["ss_learning_rate"], header["ss_lr_scheduler"], header["ss_seed"]) == ("1e-05", "constant", "7")


@pytest.mark.parametrize(
    ("layer", "width", "stem"),
    [
        ("transformer_blocks.40.attn.to_k", 3072, "diffusion_model.transformer_blocks.40.attn.to_k"),
        ("transformer_blocks.18.attn.to_k", 3072, "lora_transformer_transformer_blocks_18_attn_to_k"),
        ("transformer_blocks.37.attn.to_k", 2432, "lora_transformer_transformer_blocks_37_attn_to_k"),
    ],
)
def test_the_names_are_the_models_own_where_the_layers_tell(tmp_path: Path, layer: str, width: int, stem: str) -> None:
    convert(_run_of_one_layer(tmp_path / "run", f"transformer.{layer}", width), tmp_path / "a.safetensors")
    assert {key.rpartition(".lora_")[0] or stem for key in load_file(tmp_path / "a.safetensors")} == {stem}


def test_stock_diffusers_reads_names_as_they_are(
    align: Callable[[str], Aligned], stocked: Stocked, tmp_path: Path
) -> None:
    """In a large enough Qwen-Image, which a tiny one is not."""
    [layout] = [layout for layout in KOHYA_LAYOUTS if layout.stem]
    made, out = align("qwen-image"), tmp_path / "lora.safetensors"
    kohya.convert(made.run, out, [replace(layout, layer="transformer_blocks", width=None)], torch.float32)
    pipe = stock.with_own_denoiser(stocked("qwen-image"))
    pipe.load_lora_weights(out)
    difference = (_answer(pipe.transformer, made.arguments) - made.aligned).abs().max()
    assert difference < 1e-5 * made.aligned.abs().max().clamp(min=1)


# What cannot be exported


def test_broken_runs(tmp_path: Path) -> None:
    out = tmp_path / "lora.safetensors"
    with pytest.raises(UserError, match="no such run"):
        convert(tmp_path / "none", out)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="has the run finished"):
        convert(tmp_path / "empty", out)
    (tmp_path / "full" / "model").mkdir(parents=True)
    with pytest.raises(UserError, match="trained in full"):
        convert(tmp_path / "full", out)
    run = _run_of_one_layer(tmp_path / "run", ATTENTION, 768)
    whole = (run / LORA_FILE).read_bytes()
    (run / LORA_FILE).write_bytes(whole[:-10])
    with pytest.raises(UserError, match="broken"):
        convert(run, out)
    save_file({"unet.conv.lora_magnitude_vector": torch.ones(2)}, run / LORA_FILE)
    with pytest.raises(UserError, match="without lora_A"):
        convert(run, out)
    assert not out.exists()


def test_weights_beyond_the_precision(tmp_path: Path) -> None:
    run = _run_of_one_layer(tmp_path / "run", ATTENTION, 768)
    with safe_open(run / LORA_FILE, "pt") as file:
        header = file.metadata()
    save_file({name: value * 1e6 for name, value in load_file(run / LORA_FILE).items()}, run / LORA_FILE, header)
    with pytest.raises(UserError, match="cannot hold"):
        convert(run, tmp_path / "lora.safetensors", dtype=torch.float16)
    assert convert(run, tmp_path / "lora.safetensors", dtype=torch.bfloat16) == 1


@pytest.mark.parametrize("name", families.DISTINCT)
def test_it_is_read_again_as_an_adapter(name: str, align: Callable[[str], Aligned], tmp_path: Path) -> None:
    """Also where stock diffusers does not."""
    made, out = align(name), tmp_path / "lora.safetensors"
    convert(made.run, out, dtype=torch.float32)
    network = load_backbone(made.model, adapter=out).denoiser.network
    difference = (_answer(network, made.arguments) - made.aligned).abs().max()
    assert difference < 1e-5 * made.aligned.abs().max().clamp(min=1)


def test_text_encoders_layers_are_written_too(tiny_model: Path, tmp_path: Path) -> None:
    layer = "text_encoder.encoder.layers.0.self_attn.{}_proj.lora_{}.weight"
    random = torch.Generator().manual_seed(0)
    tensors = {
        layer.format(name, half): torch.randn(shape, generator=random)
        for name in ("q", "out")
        for half, shape in (("A", (4, 32)), ("B", (32, 4)))
    }
    unet = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.lora_{}.weight"
    tensors |= {unet.format(half): torch.ones(shape) for half, shape in (("A", (4, 32)), ("B", (32, 4)))}
    (tmp_path / "stock").mkdir()
    save_file(tensors, tmp_path / "stock" / LORA_FILE)
    assert convert(tmp_path / "stock", tmp_path / "lora.safetensors", dtype=torch.float32) == 3
    texts = []
    for adapter in (tmp_path / "stock", tmp_path / "lora.safetensors"):
        pipe = stock.load("sd", tiny_model)
        pipe.load_lora_weights(adapter)
        texts.append(pipe.encode_prompt("a red circle", "cpu", 1, False)[0])
        assert torch.allclose(
            load_backbone(tiny_model, adapter=adapter).text.embed(["a red circle"])["text"], texts[-1], atol=1e-5
        )
    assert torch.allclose(*texts, atol=1e-5)


def test_names_of_older_diffusers_need_no_model(tiny_model: Path, tmp_path: Path) -> None:
    """As files in the hub have them; what has kohya's names already says so."""
    layer = "unet.mid_block.attentions.0.transformer_blocks.0.attn1"
    factors = {"A": torch.rand(4, 32), "B": torch.rand(32, 4)}
    save_file(
        {f"{layer}.to_q.lora_{half}.weight": value for half, value in factors.items()}, tmp_path / "new.safetensors"
    )
    older = {"down": factors["A"], "up": factors["B"]}
    for form in ("processor.to_q_lora.{}.weight", "to_q.lora.{}.weight"):
        tensors = {f"{layer}.{form.format(half)}": value for half, value in older.items()}
        save_file(tensors, tmp_path / "older.safetensors")
        assert convert(tmp_path / "older.safetensors", tmp_path / "out.safetensors") == 1
        convert(tmp_path / "new.safetensors", tmp_path / "other.safetensors")
        assert all(
            torch.equal(value, load_file(tmp_path / "other.safetensors")[name])
            for name, value in load_file(tmp_path / "out.safetensors").items()
        )
    with pytest.raises(UserError, match="has kohya's names already"):
        convert(tmp_path / "out.safetensors", tmp_path / "again.safetensors")
