"""Weights that are not the network's, in any part, variant or number of files: refused by the tensor's name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import families
import pytest
import torch
from breaking import Spoil, Tensors, refused, weights
from safetensors.torch import load_file

from contrapose.backbones.families.table import load_backbone
from contrapose.backbones.settings import Loading
from contrapose.errors import UserError

NETWORK, TEXT = "diffusion_pytorch_model.safetensors", "model.safetensors"


def _half(tensors: Tensors) -> Tensors:
    return {name: tensors[name] for name in sorted(tensors)[::2]}


def _without_one(tensors: Tensors) -> Tensors:
    return {name: tensors[name] for name in sorted(tensors)[1:]}


def _with(value: float) -> Callable[[Tensors], Tensors]:
    def change(tensors: Tensors) -> Tensors:
        last = sorted(tensors)[-1]
        tensors[last].view(-1)[-1] = value
        return tensors

    return change


def _reshaped(tensors: Tensors) -> Tensors:
    name = next(name for name in sorted(tensors) if tensors[name].ndim == 2)
    return tensors | {name: torch.zeros(3, 5)}


def _with_another(tensors: Tensors) -> Tensors:
    return tensors | {"somebody.elses.weight": torch.zeros(2)}


def _none(tensors: Tensors) -> Tensors:
    return {}


def sharded(folder: str, weight_map: Any) -> Spoil:
    """In place of the weights an index of shards."""

    def spoil(model: Path) -> None:
        (path,) = (model / folder).glob("*.safetensors")
        index = {"metadata": {}, "weight_map": weight_map}
        (model / folder / f"{path.name}.index.json").write_text(json.dumps(index))
        path.rename(model / "elsewhere.safetensors")

    return spoil


# For every network and text encoder: its folder, and the name of its weights.
PARTS = {
    "sd": {"unet": NETWORK, "vae": NETWORK, "text_encoder": TEXT},
    "sana": {"transformer": NETWORK, "vae": NETWORK, "text_encoder": TEXT},
    "sd3": {"text_encoder_2": TEXT, "text_encoder_3": TEXT},
    families.names(chat=True)[0]: {"text_encoder": TEXT},
}
CHANGES: dict[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "half of the tensors": (_half, "tensors are missing, such as"),
    "one tensor missing": (_without_one, "a tensor is missing, such as"),
    "no tensors": (_none, "tensors are missing"),
    "NaN": (_with(float("nan")), "a tensor is not finite"),
    "infinite": (_with(float("-inf")), "a tensor is not finite"),
    "another shape": (_reshaped, "[3, 5]"),
    "a tensor too many": (_with_another, "unknown to the network of its config.json, such as somebody.elses.weight"),
}
SHARDS: dict[str, tuple[str, Spoil, str]] = {
    "shards that are not there": ("sd", sharded("unet", {"a": "x-00001-of-00002.safetensors"}), "which is not there"),
    "shards elsewhere": ("sd", sharded("text_encoder", {"a": "../elsewhere.safetensors"}), "its own folder"),
    "shards at a path": ("sana", sharded("vae", {"a": "/elsewhere.safetensors"}), "its own folder"),
    "shards a list": ("sd", sharded("unet", ["a"]), "its weight_map does not tell"),
    "shards of numbers": ("sd", sharded("unet", {"a": 1}), "its weight_map does not tell"),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(("family", "part"), [(family, part) for family, parts in PARTS.items() for part in parts])
def test_weights_that_are_not_the_networks(
    change: str, family: str, part: str, broken: Callable[[str, Spoil], Path]
) -> None:
    spoil, says = CHANGES[change]
    refused(broken(family, weights(f"{part}/{PARTS[family][part]}", spoil)), says)


@pytest.mark.parametrize("change", ["half of the tensors", "NaN"])
@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_weights_of_a_variant_in_shards(change: str, part: str, stocked: Callable[[str], Any], tmp_path: Path) -> None:
    stocked("sd").save_pretrained(tmp_path, variant="fp16", max_shard_size="60KB")
    loading = Loading(variant="fp16")
    load_backbone(tmp_path, loading=loading)
    shards = {path: len(load_file(path)) for path in (tmp_path / part).glob("*fp16-*.safetensors")}
    assert len(shards) > 1
    path, spoil, says = max(shards, key=shards.__getitem__), *CHANGES[change]
    weights(path.name, spoil)(path.parent)
    refused(tmp_path, says.removeprefix("tensors are "), loading=loading)


def test_values_that_a_precision_does_not_hold(broken: Callable[[str, Spoil], Path]) -> None:
    model = broken("sd", weights(f"unet/{NETWORK}", _with(1e30)))
    load_backbone(model)
    load_backbone(model, torch.bfloat16)
    refused(model, "too large for this precision", dtype=torch.float16)


LEFTOVERS = ["text_model.embeddings.position_ids", "text_projection.weight", "vision_model.embeddings.class_embedding"]


@pytest.mark.parametrize("name", LEFTOVERS)
def test_a_text_encoder_out_of_a_larger_model(name: str, broken: Callable[[str, Spoil], Path]) -> None:
    """As published ones are: what belongs to the rest of CLIP is not wanted and does no harm."""
    load_backbone(broken("sd", weights(f"text_encoder/{TEXT}", lambda tensors: tensors | {name: torch.zeros(2)})))


@pytest.mark.parametrize("name", ["sd", "sana"])
def test_only_a_variant(name: str, stocked: Callable[[str], Any], tmp_path: Path) -> None:
    stocked(name).save_pretrained(tmp_path, variant="fp16")
    refused(tmp_path, "its weights are there as fp16 alone; say --variant fp16")
    refused(tmp_path, "its weights are there as fp16 alone", loading=Loading(variant="bf16"))


def test_only_a_variant_in_shards(stocked: Callable[[str], Any], tmp_path: Path) -> None:
    stocked("sd").save_pretrained(tmp_path, variant="fp16", max_shard_size="60KB")
    refused(tmp_path, "its weights are there as fp16 alone; say --variant fp16")


def test_a_variant_of_some_parts(stocked: Callable[[str], Any], tiny_model: Path, tmp_path: Path) -> None:
    """Parts without it are read plain, as diffusers does."""
    shutil.copytree(tiny_model, tmp_path / "m")
    shutil.copy(tmp_path / "m/unet" / NETWORK, tmp_path / "m/unet" / NETWORK.replace(".safe", ".fp16.safe"))
    load_backbone(tmp_path / "m", loading=Loading(variant="fp16"))
    with pytest.raises(UserError, match=r"variant bf16: .* has no weights of it"):
        load_backbone(tmp_path / "m", loading=Loading(variant="bf16"))


def test_only_pickledweights(broken: Callable[[str, Spoil], Path]) -> None:
    def pickled(folder: Path) -> None:
        (folder / "unet" / NETWORK).rename(folder / "unet" / "diffusion_pytorch_model.bin")

    refused(broken("sd", pickled), "its weights are there as diffusion_pytorch_model.bin alone")


@pytest.mark.parametrize("what", SHARDS)
def test_an_index_of_shards(what: str, broken: Callable[[str, Spoil], Path]) -> None:
    family, spoil, says = SHARDS[what]
    refused(broken(family, spoil), says)
