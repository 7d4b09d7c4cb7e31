"""A model or run that is not whole is told in one line that names it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from contrapose.backbones.families import load_backbone
from contrapose.backbones.loading import load_tokenizer, reads_too_little
from contrapose.errors import UserError


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model, to break."""
    return shutil.copytree(tiny_model, tmp_path / "model")


def _refused(naming: str, *arguments: object, **options: object) -> str:
    with pytest.raises(UserError, match=re.escape(naming)) as caught:
        load_backbone(*arguments, **options)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def _halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _set_family(folder: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": "SanaPipeline"}))


BREAKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no model_index.json": (lambda f: (f / "model_index.json").unlink(), "model_index.json"),
    "broken JSON": (lambda f: (f / "model_index.json").write_text('{"_class'), "model_index.json"),
    "JSON that is no mapping": (lambda f: (f / "model_index.json").write_text("[1, 2]"), "model_index.json"),
    "not UTF-8": (lambda f: (f / "model_index.json").write_bytes(b"\xff\xfe{"), "model_index.json"),
    "unknown family": (_set_family, "SanaPipeline"),
    "no vae": (lambda f: shutil.rmtree(f / "vae"), "vae"),
    "no unet": (lambda f: shutil.rmtree(f / "unet"), "unet"),
    "no tokenizer": (lambda f: shutil.rmtree(f / "tokenizer"), "tokenizer"),
    "no scheduler": (lambda f: shutil.rmtree(f / "scheduler"), "scheduler"),
    "unet without weights": (lambda f: (f / "unet/diffusion_pytorch_model.safetensors").unlink(), "unet"),
    "broken unet config": (lambda f: (f / "unet/config.json").write_text("{"), "unet"),
    "truncated unet": (lambda f: _halve(f / "unet/diffusion_pytorch_model.safetensors"), "model"),
    "truncated vae": (lambda f: _halve(f / "vae/diffusion_pytorch_model.safetensors"), "model"),
    "truncated text encoder": (lambda f: _halve(f / "text_encoder/model.safetensors"), "model"),
    "empty text encoder": (lambda f: (f / "text_encoder/model.safetensors").write_bytes(b""), "model"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_broken_model(name: str, model: Path) -> None:
    spoil, naming = BREAKS[name]
    spoil(model)
    assert str(model) in _refused(naming, model)


@pytest.mark.parametrize("where", ["nowhere", "a/b/c", "./nowhere"])
def test_missing_model(where: str, tmp_path: Path) -> None:
    _refused("nowhere" if "nowhere" in where else "a/b/c", tmp_path / where if where == "nowhere" else where)


def test_missing_tokenizer(model: Path, tmp_path: Path) -> None:
    shutil.rmtree(model / "tokenizer")
    for folder in (model, tmp_path / "nowhere"):
        with pytest.raises(UserError, match=re.escape(str(folder))):
            load_tokenizer(folder)


def test_missing_run(tiny_model: Path, tmp_path: Path) -> None:
    _refused("nowhere", tiny_model, adapter=tmp_path / "nowhere")


def test_run_without_weights(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("steps: 1\n")
    _refused("has the run finished?", tiny_model, adapter=tmp_path)


def test_lora_of_another_shape(tiny_model: Path, wider_model: Path, tmp_path: Path) -> None:
    load_backbone(wider_model).with_lora(2, 2.0).save(tmp_path)
    _refused(str(tmp_path), tiny_model, adapter=tmp_path)


def test_lora_that_is_truncated(tiny_model: Path, tmp_path: Path) -> None:
    load_backbone(tiny_model).with_lora(2, 2.0).save(tmp_path)
    _halve(tmp_path / "pytorch_lora_weights.safetensors")
    _refused(str(tmp_path), tiny_model, adapter=tmp_path)


def test_full_run_that_is_truncated(tiny_model: Path, tmp_path: Path) -> None:
    load_backbone(tiny_model).with_full(torch.float32).save(tmp_path)
    _halve(tmp_path / "model/unet/diffusion_pytorch_model.safetensors")
    _refused(str(tmp_path), tiny_model, adapter=tmp_path)


def test_prompts_beyond_the_text_encoder(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(tiny_model)
    fits, long = "a red circle " * 7, "a red circle " * 8  # 21 and 24 words beside start and end, of 24 tokens
    assert reads_too_little(tokenizer, [fits, long, "x" * 10_000]) == [long, "x" * 10_000]
