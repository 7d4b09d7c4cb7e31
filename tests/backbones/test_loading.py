"""How a model is read, and that a model which is not whole is told in one line that names it."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import families
import pytest
import stock
import torch
from diffusers import DiffusionPipeline
from huggingface_hub import constants
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
from training import with_full

from contrapose.backbones import loading
from contrapose.backbones.base import Backbone
from contrapose.backbones.families.table import BY_PIPELINE, FAMILIES, load_backbone
from contrapose.backbones.settings import Loading
from contrapose.errors import UserError


@pytest.fixture
def model(folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model, to break."""
    return shutil.copytree(folder, tmp_path / "model")


def _refused(naming: str, *arguments: object, **options: object) -> str:
    with pytest.raises(UserError, match=re.escape(naming)) as caught:
        load_backbone(*arguments, **options)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def _halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _set_family(folder: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": "KandinskyPipeline"}))


def _denoiser(folder: Path) -> Path:
    return folder / "unet" if (folder / "unet").exists() else folder / "transformer"


WEIGHTS = "diffusion_pytorch_model.safetensors"
BREAKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no model_index.json": (lambda f: (f / "model_index.json").unlink(), "model_index.json"),
    "broken JSON": (lambda f: (f / "model_index.json").write_text('{"_class'), "model_index.json"),
    "JSON that is no mapping": (lambda f: (f / "model_index.json").write_text("[1, 2]"), "model_index.json"),
    "not UTF-8": (lambda f: (f / "model_index.json").write_bytes(b"\xff\xfe{"), "model_index.json"),
    "unknown family": (_set_family, "KandinskyPipeline"),
    "no vae": (lambda f: shutil.rmtree(f / "vae"), "vae"),
    "no denoiser": (lambda f: shutil.rmtree(_denoiser(f)), "missing"),
    "no tokenizer": (lambda f: shutil.rmtree(f / "tokenizer"), "tokenizer"),
    "tokenizer without words": (lambda f: (f / "tokenizer/tokenizer.json").unlink(), "vocabulary"),
    "no scheduler": (lambda f: shutil.rmtree(f / "scheduler"), "scheduler"),
    "no text encoder": (lambda f: shutil.rmtree(f / "text_encoder"), "text_encoder"),
    "denoiser without weights": (lambda f: (_denoiser(f) / WEIGHTS).unlink(), "holds no weights"),
    "broken denoiser config": (
        lambda f: (_denoiser(f) / "config.json").write_text("{"),
        "config.json: not readable as JSON",
    ),
    "truncated denoiser": (lambda f: _halve(_denoiser(f) / WEIGHTS), "model"),
    "truncated vae": (lambda f: _halve(f / "vae" / WEIGHTS), "model"),
    "truncated text encoder": (lambda f: _halve(f / "text_encoder/model.safetensors"), "model"),
    "empty text encoder": (lambda f: (f / "text_encoder/model.safetensors").write_bytes(b""), "model"),
}


@pytest.mark.parametrize("name", ["sd", "sana"])
@pytest.mark.parametrize("what", BREAKS)
def test_broken_model(what: str, model: Path) -> None:
    spoil, naming = BREAKS[what]
    spoil(model)
    assert str(model) in _refused(naming, model)


@pytest.mark.parametrize("name", ["sd3", "flux"])
@pytest.mark.parametrize("part", ["text_encoder_2", "tokenizer_2"])
def test_a_further_encoder_that_is_missing(part: str, model: Path) -> None:
    shutil.rmtree(model / part)
    assert str(model) in _refused(part, model)


@pytest.mark.parametrize("name", ["sd"])
def test_an_unknown_family_is_told_the_known(model: Path) -> None:
    _set_family(model)
    line = _refused("KandinskyPipeline", model)
    assert all(pipeline in line for pipeline in BY_PIPELINE)
    assert len(BY_PIPELINE) == len(FAMILIES)


@pytest.mark.parametrize("where", ["nowhere", "./nowhere", "~/nowhere", "a/b/c", "nowhere.safetensors"])
def test_missing_model(where: str, tmp_path: Path) -> None:
    _refused(where, tmp_path / where if where == "nowhere" else where)


@pytest.mark.parametrize("model_id", ["some/model", "gpt2"])
def test_a_hub_id_offline(model_id: str) -> None:
    line = _refused("the hub cannot be reached", model_id)
    assert f"'hf download {model_id}'" in line


@pytest.mark.parametrize("model_id", ["no such name", "a//b", "ends/in."])
def test_what_is_no_hub_id(model_id: str) -> None:
    _refused("no such model folder or file", model_id)


HUB_ERRORS: dict[str, tuple[Callable[[Any], Exception], str]] = {
    "unknown": (lambda response: RepositoryNotFoundError("404", response=response), "neither a folder here nor in the"),
    "gated": (lambda response: GatedRepoError("403", response=response), "log in with 'hf auth login'"),
    "no pipeline": (lambda response: EntryNotFoundError("404"), "has no model_index.json in the hub"),
    "no network": (lambda response: LocalEntryNotFoundError("gone"), "the hub cannot be reached"),
    "anything": (lambda response: ValueError("odd\nthings"), "cannot be downloaded from the hub: odd things"),
}


@pytest.mark.parametrize("what", HUB_ERRORS)
def test_what_the_hub_says(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, says = HUB_ERRORS[what]

    def answer(*_: object, **__: object) -> None:
        raise make(Mock(headers={}))

    monkeypatch.setattr(loading, "hf_hub_download", answer)
    _refused(says, "some/model")


@pytest.mark.parametrize("name", ["sd", "sana"])
def test_a_hub_id_that_was_downloaded(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read out of the hub's cache, as it is without a network."""
    repository, revision = tmp_path / "models--some--model", "0123456789abcdef0123456789abcdef01234567"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text(revision)
    shutil.copytree(folder, repository / "snapshots" / revision)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert load_backbone("some/model").fingerprint == load_backbone(folder).fingerprint


def test_missing_run(tiny_model: Path, tmp_path: Path) -> None:
    _refused("nowhere", tiny_model, adapter=tmp_path / "nowhere")


def test_run_without_weights(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("steps: 1\n")
    _refused("has the run finished?", tiny_model, adapter=tmp_path)


def test_the_families_own(name: str, plain: Backbone, pipe: DiffusionPipeline) -> None:
    family = families.of(name).variant_of or name
    names = dict(zip(families.DISTINCT, FAMILIES, strict=True))
    assert plain.family is names[family]
    assert type(plain.sampler.stock) is type(pipe)
    assert type(plain.denoiser.network) is type(stock.denoiser_of(pipe))
    encoders = [part for part, module in pipe.components.items() if part.startswith("text_encoder") and module]
    assert [part for part in plain.text.encoder_parts if getattr(plain.sampler.stock, part) is not None] == encoders
    modules = [getattr(pipe, part) for part in encoders]
    assert plain.text.encoder_bytes == sum(4 * p.numel() for module in modules for p in module.parameters())


@pytest.mark.parametrize("network", [None, torch.float32])
def test_precisions(network: torch.dtype | None, folder: Path) -> None:
    backbone = load_backbone(folder, torch.bfloat16, network_dtype=network)
    assert backbone.denoiser.dtype == backbone.denoiser.network.dtype == (network or torch.bfloat16)
    assert backbone.sampler.stock.vae.dtype == torch.bfloat16
    assert {getattr(backbone.sampler.stock, part).dtype for part in _encoders(backbone)} == {torch.bfloat16}


def _encoders(backbone: Backbone) -> list[str]:
    return [part for part in backbone.text.encoder_parts if getattr(backbone.sampler.stock, part) is not None]


@pytest.mark.parametrize("name", ["sd", "sd3", "sd3-no-t5", *families.names(masked=True)])
def test_releasing(folder: Path) -> None:
    backbone = load_backbone(folder)
    backbone.release_encoders(keep_text=True)
    assert backbone.sampler.stock.vae is None
    assert backbone.text.embed(["a red circle"])["text"].isfinite().all()
    backbone.release_encoders()
    assert backbone.text.encoder_bytes == 0
    assert _encoders(backbone) == []


@pytest.mark.parametrize("name", families.one_of_each("attention"))
def test_a_variant(name: str, stocked: Callable[[str], DiffusionPipeline], tmp_path: Path) -> None:
    """Weights that are there as fp16 alone are found when one asks for them."""
    stocked(name).save_pretrained(tmp_path, variant="fp16")
    _refused(str(tmp_path), tmp_path)
    backbone = load_backbone(tmp_path, loading=Loading(variant="fp16"))
    assert backbone.text.embed(stock.PROMPTS)["text"].isfinite().all()
    assert backbone.fingerprint == load_backbone(tmp_path, loading=Loading(variant="fp16")).fingerprint
    with_full(backbone, torch.float32).save(tmp_path / "run")
    assert stock.load(name, tmp_path / "run" / "model").components.keys() == backbone.sampler.stock.components.keys()
    _refused(str(tmp_path), tmp_path, loading=Loading(variant="bf16"))


@pytest.mark.parametrize("name", families.names(twice=True))
def test_guidance_is_an_input_of_few_networks(folder: Path) -> None:
    with pytest.raises(UserError, match=r"distilled_guidance: .* takes no guidance") as told:
        load_backbone(folder).denoiser.feed_guidance(2.0)
    assert str(folder) in str(told.value)


@pytest.mark.parametrize("kind", ["nf4", "int8", "torchao-int8"])
def test_quantisation_without_its_library(kind: Any, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    line = _refused(f"quantize {kind} needs", tiny_model, loading=replace(Loading(), quantize=kind))
    assert "pip install" in line
