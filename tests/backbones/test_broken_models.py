"""A model's folder with one thing wrong in it: refused in one line that names the part, before anything is made of it.

Each row is one corruption of a tiny pipeline, and what the line must say. `test_loading` has files that are not there.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from contrapose.backbones.families import load_backbone
from contrapose.backbones.loading import Loading
from contrapose.errors import UserError

Spoil = Callable[[Path], object]
NETWORK, TEXT = "diffusion_pytorch_model.safetensors", "model.safetensors"


def _edit(path: str, **changes: Any) -> Spoil:
    """Set entries of a JSON file; NaN and Infinity are written as Python writes them."""

    def spoil(folder: Path) -> None:
        whole = json.loads((folder / path).read_text())
        (folder / path).write_text(json.dumps(whole | changes))

    return spoil


def _scheduled(**changes: Any) -> Spoil:
    return _edit("scheduler/scheduler_config.json", **changes)


def _write(path: str, content: str | bytes) -> Spoil:
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / path).write_bytes(data)


def _weights(path: str, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Spoil:
    def spoil(folder: Path) -> None:
        save_file(change(load_file(folder / path)), folder / path, metadata={"format": "pt"})

    return spoil


def _half(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensors[name] for name in sorted(tensors)[::2]}


def _without_one(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensors[name] for name in sorted(tensors)[1:]}


def _with(value: float) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    def change(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        last = sorted(tensors)[-1]
        tensors[last].view(-1)[-1] = value
        return tensors

    return change


def _reshaped(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    name = next(name for name in sorted(tensors) if tensors[name].ndim == 2)
    return tensors | {name: torch.zeros(3, 5)}


def _with_another(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return tensors | {"somebody.elses.weight": torch.zeros(2)}


def _none(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {}


def _sharded(folder: str, weight_map: Any) -> Spoil:
    """In place of the weights an index of shards."""

    def spoil(model: Path) -> None:
        (path,) = (model / folder).glob("*.safetensors")
        index = {"metadata": {}, "weight_map": weight_map}
        (model / folder / f"{path.name}.index.json").write_text(json.dumps(index))
        path.rename(model / "elsewhere.safetensors")

    return spoil


DEEP = "[" * 100_000 + "]" * 100_000
FACTOR = "scaling_factor"
# For every network and text encoder: its folder, and the name of its weights.
PARTS = {
    "sd": {"unet": NETWORK, "vae": NETWORK, "text_encoder": TEXT},
    "sana": {"transformer": NETWORK, "vae": NETWORK, "text_encoder": TEXT},
    "sd3": {"text_encoder_2": TEXT, "text_encoder_3": TEXT},
    "z-image": {"text_encoder": TEXT},
}
CHANGES: dict[str, tuple[Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]], str]] = {
    "half of the tensors": (_half, "tensors are missing, such as"),
    "one tensor missing": (_without_one, "a tensor is missing, such as"),
    "no tensors": (_none, "tensors are missing"),
    "NaN": (_with(float("nan")), "a tensor is not finite"),
    "infinite": (_with(float("-inf")), "a tensor is not finite"),
    "another shape": (_reshaped, "[3, 5]"),
    "a tensor too many": (_with_another, "unknown to the network of its config.json, such as somebody.elses.weight"),
}
TABLE: dict[str, tuple[str, Spoil, str]] = {
    "index deep": ("sd", _write("model_index.json", DEEP), "model_index.json: not readable as JSON"),
    "index class a number": ("sd", _edit("model_index.json", _class_name=7), "a 7 is not supported"),
    "index class null": ("sd", _edit("model_index.json", _class_name=None), "is not supported"),
    "index class with code": (
        "sd", _edit("model_index.json", _class_name=["pipeline", "Evil"]), "['pipeline', 'Evil'] is not supported",
    ),
    "index class of another family": ("sd", _edit("model_index.json", _class_name="FluxPipeline"), "text_encoder_2"),
    "index class of the next family": (
        "sd", _edit("model_index.json", _class_name="StableDiffusionXLPipeline"), "text_encoder_2",
    ),
    "index part []": ("sd", _edit("model_index.json", vae=[]), "model_index.json: vae is []"),
    "index part of one": ("sd", _edit("model_index.json", vae=["diffusers"]), "model_index.json: vae is ['diffusers']"),
    "index part of numbers": ("sd", _edit("model_index.json", unet=[1, 2]), "model_index.json: unet is [1, 2]"),
    "index part a number": ("sd", _edit("model_index.json", unet=5), "model_index.json: unet is 5"),
    "index part null": ("sd", _edit("model_index.json", unet=[None, None]), "names no unet"),
    "index text encoder null": ("sdxl", _edit("model_index.json", text_encoder=[None, None]), "names no text_encoder"),
    "index part of another class": (
        "sd", _edit("model_index.json", vae=["diffusers", "UNet2DConditionModel"]), "takes AutoencoderKL",
    ),
    "index part a function": ("sd", _edit("model_index.json", unet=["os", "system"]), "unet is a system of os"),
    "index part of a file beside it": ("sd", _edit("model_index.json", unet=["evil", "Evil"]), "a Evil of evil"),
    "index part of any class": (
        "sd", _edit("model_index.json", text_encoder=["transformers", "AutoModel"]), "a AutoModel of transformers",
    ),
    "index tokenizer of any class": (
        "sd", _edit("model_index.json", tokenizer=["transformers", "AutoTokenizer"]), "a AutoTokenizer of transformers",
    ),
    "index scheduler a network": (
        "sd", _edit("model_index.json", scheduler=["diffusers", "UNet2DConditionModel"]), "scheduler",
    ),
    "config missing": ("sd", lambda folder: (folder / "unet/config.json").unlink(), "unet/config.json: no such file"),
    "config binary": ("sd", _write("unet/config.json", b"\xff\xfe\x00"), "unet/config.json: not readable as JSON"),
    "config deep": ("sd", _write("vae/config.json", DEEP), "vae/config.json: not readable as JSON"),
    "config a list": ("sd", _write("text_encoder/config.json", "[]"), "text_encoder/config.json: not a JSON object"),
    "config empty": ("sd", _write("unet/config.json", "{}"), "unet/config.json: sample_size is None"),
    "config of another width": (
        "sd", _edit("unet/config.json", block_out_channels=[32, 64]), "unet",
    ),
    "text config of another width": ("sd", _edit("text_encoder/config.json", hidden_size=64), "text_encoder: "),
    "config of more layers": ("sd", _edit("text_encoder/config.json", num_hidden_layers=7), "tensors are missing"),
    "config of fewer layers": ("sd", _edit("text_encoder/config.json", num_hidden_layers=1), "unknown to the network"),
    "config of too many layers": ("sd", _edit("unet/config.json", layers_per_block=10**9), "layers_per_block is 10000"),
    "config of negative layers": ("sd", _edit("unet/config.json", layers_per_block=-1), "unet"),
    "config of negative width": ("sd", _edit("unet/config.json", block_out_channels=[-16, 32]), "unet"),
    "config of no width": ("sd", _edit("unet/config.json", block_out_channels=[0, 0]), "unet"),
    "config NaN": ("sd", _edit("unet/config.json", norm_eps=float("nan")), "norm_eps is nan"),
    "config infinite": ("sd", _edit("vae/config.json", norm_eps=float("inf")), "norm_eps is inf"),
    "config without end": ("sd", _edit("text_encoder/config.json", vocab_size=10**12), "vocab_size is 1000000"),
    "class name a number": ("sd", _edit("unet/config.json", _class_name=5, cross_attention_dim=64), "unet"),
    "side text": ("sd", _edit("unet/config.json", sample_size="64"), "unet/config.json: sample_size is '64'"),
    "side null": ("sd", _edit("unet/config.json", sample_size=None), "unet/config.json: sample_size is None"),
    "side 0": ("sd", _edit("unet/config.json", sample_size=0), "unet/config.json: sample_size is 0"),
    "side negative": ("sd", _edit("unet/config.json", sample_size=-8), "unet/config.json: sample_size is -8"),
    "side a fraction": ("sd", _edit("unet/config.json", sample_size=8.5), "unet/config.json: sample_size is 8.5"),
    "side true": ("sd", _edit("unet/config.json", sample_size=True), "unet/config.json: sample_size is True"),
    "side without end": ("sd", _edit("unet/config.json", sample_size=10**6), "unet/config.json: sample_size is 10000"),
    "side of a transformer": ("sd3", _edit("transformer/config.json", sample_size=10**6), "sample_size is 1000000"),
    "positions without end": ("sd3", _edit("transformer/config.json", pos_embed_max_size=10**6), "pos_embed_max_size"),
    "scale 0": ("sd", _edit("vae/config.json", scaling_factor=0), "vae/config.json: scaling_factor is 0"),
    "scale negative": ("sd", _edit("vae/config.json", scaling_factor=-1), "vae/config.json: scaling_factor is -1"),
    "scale text": ("sd", _edit("vae/config.json", scaling_factor="1"), "vae/config.json: scaling_factor is '1'"),
    "scale null": ("sana", _edit("vae/config.json", scaling_factor=None), "vae/config.json: scaling_factor is None"),
    "scale NaN": ("sd", _edit("vae/config.json", scaling_factor=float("nan")), "scaling_factor is nan"),
    "shift text": ("flux", _edit("vae/config.json", shift_factor="0"), "vae/config.json: shift_factor is '0'"),
    "mean of other channels": ("sdxl", _edit("vae/config.json", latents_mean=[0.0]), "latents_mean is [0.0]"),
    "deviation 0": ("sdxl", _edit("vae/config.json", latents_std=[1, 1, 0, 1]), "latents_std is [1, 1, 0, 1]"),
    "latents of other channels": ("sd", _edit("unet/config.json", in_channels=9), "unet"),
    "tokenizer config empty": ("sd", _write("tokenizer/tokenizer_config.json", "{}"), "model_max_length is 1e+30"),
    "tokenizer config deep": ("sd", _write("tokenizer/tokenizer_config.json", DEEP), "config.json: not readable"),
    "tokenizer longer than its encoder": (
        "sdxl", _edit("tokenizer_2/tokenizer_config.json", model_max_length=7777), "tokenizer_2: model_max_length is 7",
    ),
    "tokenizer deep": ("sd", _write("tokenizer/tokenizer.json", DEEP), "cannot be loaded"),
    "tokenizer an empty object": ("sd", _write("tokenizer/tokenizer.json", "{}"), "cannot be loaded"),
    "tokenizer code": (
        "sd", _edit("tokenizer/tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Evil", None]}), "",
    ),
    "scheduler config deep": ("sd", _write("scheduler/scheduler_config.json", DEEP), "config.json: not readable"),
    "scheduler of too many steps": (
        "sd", _scheduled(num_train_timesteps=10**12), "num_train_timesteps is 1000000",
    ),
    "scheduler of an unknown prediction": (
        "sd", _scheduled(prediction_type=5), "the network predicts 5 (known",
    ),
    "scheduler of an unknown spacing": (
        "sd", _scheduled(timestep_spacing="evenly"), "its times cannot be made",
    ),
    "scheduler with an offset": (
        "sdxl", _scheduled(steps_offset=5000), "where the network knows 0 to 1000",
    ),
    "scheduler of text": ("sd", _scheduled(beta_end="x"), "cannot be loaded"),
    "scheduler of no steps": ("sd", _scheduled(num_train_timesteps=0), "_timesteps is 0"),
    "scheduler of negative steps": (
        "sd3", _scheduled(num_train_timesteps=-1), "num_train_timesteps is -1",
    ),
    "scheduler of half steps": ("sd", _scheduled(num_train_timesteps=9.5), "_timesteps is 9.5"),
    "flow of text": ("sd3", _scheduled(shift="3"), "cannot be loaded"),
    "flow shift 0": ("sd3", _scheduled(shift=0), "its times reach from nan"),
    "flow shift negative": ("sana", _scheduled(flow_shift=-3.0), "its times reach from -"),
    "chat template missing": ("z-image", lambda f: (f / "tokenizer/chat_template.jinja").unlink(), "tokenizer cannot"),
    "chat template broken": ("z-image", _write("tokenizer/chat_template.jinja", "{% for"), "tokenizer cannot read"),
    "no padding": ("sana", _edit("tokenizer/tokenizer_config.json", pad_token=None), "tokenizer cannot read a prompt"),
    "shards that are not there": ("sd", _sharded("unet", {"a": "x-00001-of-00002.safetensors"}), "which is not there"),
    "shards elsewhere": ("sd", _sharded("text_encoder", {"a": "../elsewhere.safetensors"}), "its own folder"),
    "shards at a path": ("sana", _sharded("vae", {"a": "/elsewhere.safetensors"}), "its own folder"),
    "shards a list": ("sd", _sharded("unet", ["a"]), "its weight_map does not tell"),
    "shards of numbers": ("sd", _sharded("unet", {"a": 1}), "its weight_map does not tell"),
}  # fmt: skip


@pytest.fixture
def broken(
    tiny_family: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, Spoil], Path]:
    """A copy of a tiny model with something wrong in it, at a path that says nothing of what it is."""

    def make(family: str, spoil: Spoil) -> Path:
        model = shutil.copytree(tiny_family(family), tmp_path_factory.mktemp("a") / "b")
        spoil(model)
        return model

    return make


def _refused(model: Path, says: str, **options: Any) -> None:
    with pytest.raises(UserError, match=re.escape(says)) as caught:
        load_backbone(model, **options)
    assert len(str(caught.value).splitlines()) == 1
    assert str(model) in str(caught.value)
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize("what", TABLE)
def test_one_thing_wrong(what: str, broken: Callable[[str, Spoil], Path]) -> None:
    family, spoil, says = TABLE[what]
    model = broken(family, spoil)
    if not says:  # what is there besides is never looked at
        load_backbone(model)
        return
    _refused(model, says)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(("family", "part"), [(family, part) for family, parts in PARTS.items() for part in parts])
def test_weights_that_are_not_the_networks(
    change: str, family: str, part: str, broken: Callable[[str, Spoil], Path]
) -> None:
    spoil, says = CHANGES[change]
    _refused(broken(family, _weights(f"{part}/{PARTS[family][part]}", spoil)), says)


@pytest.mark.parametrize("change", ["half of the tensors", "NaN"])
@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_weights_of_a_variant_in_shards(change: str, part: str, stocked: Callable[[str], Any], tmp_path: Path) -> None:
    stocked("sd").save_pretrained(tmp_path, variant="fp16", max_shard_size="60KB")
    loading = Loading(variant="fp16")
    load_backbone(tmp_path, loading=loading)
    shards = {path: len(load_file(path)) for path in (tmp_path / part).glob("*fp16-*.safetensors")}
    assert len(shards) > 1
    path, spoil, says = max(shards, key=shards.__getitem__), *CHANGES[change]
    _weights(path.name, spoil)(path.parent)
    _refused(tmp_path, says.removeprefix("tensors are "), loading=loading)


def test_values_that_a_precision_does_not_hold(broken: Callable[[str, Spoil], Path]) -> None:
    model = broken("sd", _weights(f"unet/{NETWORK}", _with(1e30)))
    load_backbone(model)
    load_backbone(model, torch.bfloat16)
    _refused(model, "too large for this precision", dtype=torch.float16)


LEFTOVERS = ["text_model.embeddings.position_ids", "text_projection.weight", "vision_model.embeddings.class_embedding"]


@pytest.mark.parametrize("name", LEFTOVERS)
def test_a_text_encoder_out_of_a_larger_model(name: str, broken: Callable[[str, Spoil], Path]) -> None:
    """As published ones are: what belongs to the rest of CLIP is not wanted and does no harm."""
    load_backbone(broken("sd", _weights(f"text_encoder/{TEXT}", lambda tensors: tensors | {name: torch.zeros(2)})))


@pytest.mark.parametrize("name", ["sd", "sana"])
def test_only_a_variant(name: str, stocked: Callable[[str], Any], tmp_path: Path) -> None:
    stocked(name).save_pretrained(tmp_path, variant="fp16")
    _refused(tmp_path, "its weights are there as fp16 alone; say --variant fp16")
    _refused(tmp_path, "its weights are there as fp16 alone", loading=Loading(variant="bf16"))


def test_only_a_variant_in_shards(stocked: Callable[[str], Any], tmp_path: Path) -> None:
    stocked("sd").save_pretrained(tmp_path, variant="fp16", max_shard_size="60KB")
    _refused(tmp_path, "its weights are there as fp16 alone; say --variant fp16")


def test_a_variant_of_some_parts(stocked: Callable[[str], Any], tiny_model: Path, tmp_path: Path) -> None:
    """Parts without it are read plain, as diffusers does."""
    shutil.copytree(tiny_model, tmp_path / "m")
    shutil.copy(tmp_path / "m/unet" / NETWORK, tmp_path / "m/unet" / NETWORK.replace(".safe", ".fp16.safe"))
    load_backbone(tmp_path / "m", loading=Loading(variant="fp16"))
    with pytest.raises(UserError, match=r"variant bf16: .* has no weights of it"):
        load_backbone(tmp_path / "m", loading=Loading(variant="bf16"))


def test_only_pickled_weights(broken: Callable[[str, Spoil], Path]) -> None:
    def pickled(folder: Path) -> None:
        (folder / "unet" / NETWORK).rename(folder / "unet" / "diffusion_pytorch_model.bin")

    _refused(broken("sd", pickled), "its weights are there as diffusion_pytorch_model.bin alone")


def test_a_side_that_is_two_numbers(broken: Callable[[str, Spoil], Path]) -> None:
    """diffusers knows networks for images that are wider than high."""
    model = broken("sd", _edit("unet/config.json", sample_size=[8, 16]))
    assert load_backbone(model).latent_shape == (4, 8, 16)


@pytest.mark.parametrize(
    ("family", "part"), [("sd", "text_encoder"), ("sana", "text_encoder"), ("flux", "text_encoder_2")]
)
def test_a_text_encoder_of_another_model(
    family: str, part: str, broken: Callable[[str, Spoil], Path], tiny_family: Callable[[str], Path]
) -> None:
    """Whole in itself, and of another width than the network reads."""
    other = {"sd": "flux", "sana": "z-image", "flux": "sd3"}[family]
    theirs = {"sd": "text_encoder", "sana": "text_encoder", "flux": "text_encoder_3"}[family]

    def exchange(folder: Path) -> None:
        shutil.rmtree(folder / part)
        shutil.copytree(tiny_family(other) / theirs, folder / part)
        index = json.loads((folder / "model_index.json").read_text())
        index[part] = json.loads((tiny_family(other) / "model_index.json").read_text())[theirs]
        (folder / "model_index.json").write_text(json.dumps(index))

    _refused(broken(family, exchange), "takes Gemma2" if family == "sana" else "so they are another model's")


def _merges(keep: float) -> Spoil:
    """The tokenizer in its older form, vocabulary and merges in two files, of which the second is cut."""

    def spoil(folder: Path) -> None:
        model = json.loads((folder / "tokenizer/tokenizer.json").read_text())["model"]
        merges = [" ".join(merge) for merge in model["merges"]]
        kept = merges[: int(keep * len(merges))]
        (folder / "tokenizer/vocab.json").write_text(json.dumps(model["vocab"]))
        (folder / "tokenizer/merges.txt").write_text("".join(line + "\n" for line in ["#version: 0.2", *kept]))
        (folder / "tokenizer/tokenizer.json").unlink()

    return spoil


def test_merges_in_a_file_of_their_own(broken: Callable[[str, Spoil], Path]) -> None:
    load_backbone(broken("sd", _merges(1.0)))


def test_merges_that_are_cut(broken: Callable[[str, Spoil], Path]) -> None:
    _refused(broken("sd", _merges(0.8)), "so merges.txt is cut short")
