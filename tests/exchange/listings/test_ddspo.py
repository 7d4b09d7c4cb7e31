"""DDSPO's prepared latents: taken as they are, when the model can have drawn them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from changing import changed
from safetensors.torch import save_file

from contrapose.backbones.base import Backbone
from contrapose.backbones.families.table import load_backbone
from contrapose.errors import UserError
from contrapose.exchange.imports import Import, import_pairs, plan_import, read_listing
from contrapose.store.check import Findings, check_pairs
from contrapose.store.groups import GroupStore

NUM = 5


@pytest.fixture(scope="module")
def backbone(tiny_model: Path) -> Backbone:
    return load_backbone(tiny_model)


def _latent(seed: int, shape: tuple[int, ...] = (4, 8, 8)) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).half()


def _row(number: int, **changes: Any) -> dict[str, Any]:
    files = {"pos_file": f"{number:03d}.safetensors", "neg_file": f"{number:03d}_neg.safetensors"}
    texts = {"prompt": f"a red circle {number}", "neg_prompt": f"a circle {number}", "all_neg_prompts": ["a circle"]}
    return {"id": f"{number:03d}", "tag": "", **texts, **files} | changes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As its authors' `prepare_latents.py` writes them, in half precision."""
    (tmp_path / "latents").mkdir()
    for number in range(NUM):
        shape = (4, 8, 8) if number < 3 else (4, 8, 12)
        for side, name in enumerate((f"{number:03d}", f"{number:03d}_neg")):
            save_file({"latent": _latent(2 * number + side, shape)}, tmp_path / "latents" / f"{name}.safetensors")
    _write(tmp_path, *(_row(number) for number in range(NUM)))
    return tmp_path


def _write(folder: Path, *rows: dict[str, Any]) -> None:
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _imported(folder: Path, model: Path, backbone: Backbone, **settings: Any) -> GroupStore:
    mine = Import(str(model), source=folder, shard_size=2, batch_size=2)
    mine = changed(mine, **settings)
    for _ in import_pairs(mine, plan_import(mine, read_listing(mine), backbone), backbone, folder / "out"):
        pass
    return GroupStore(folder / "out")


def test_latents_are_taken_as_they_are(folder: Path, tiny_model: Path, backbone: Backbone) -> None:
    store = _imported(folder, tiny_model, backbone)
    assert store.shapes == [(4, 8, 8), (4, 8, 12)]
    for index, record in enumerate(store.records):
        number = int(record.prompt[-1])
        assert record.degraded == f"a circle {number}"
        assert record.preference == 1.0
        for side, field in enumerate(("winner", "loser")):
            assert torch.equal(store.latent(field, index), _latent(2 * number + side, store.shape(index)).float())
    assert {record.prompt for record in store.records} == {f"a red circle {number}" for number in range(NUM)}
    findings = check_pairs(store)
    assert isinstance(findings, Findings) and not findings.problems


def test_the_manifest_says_whose_word_it_is(folder: Path, tiny_model: Path, backbone: Backbone) -> None:
    manifest = _imported(folder, tiny_model, backbone).manifest
    assert manifest["import"]["format"] == "ddspo"
    assert manifest["fingerprint"] == backbone.fingerprint
    assert manifest["note"] == "ddspo latents, taken as they are; that this model drew them is not recorded with them"


def test_killed_and_resumed_is_uninterrupted(folder: Path, tiny_model: Path, backbone: Backbone) -> None:
    _imported(folder, tiny_model, backbone)
    whole = {path.name: path.read_bytes() for path in (folder / "out").iterdir()}
    (folder / "out" / "shard-00001.safetensors").unlink()
    _imported(folder, tiny_model, backbone)
    assert {path.name: path.read_bytes() for path in (folder / "out").iterdir()} == whole
    save_file({"latent": _latent(99)}, folder / "latents" / "000.safetensors")
    with pytest.raises(UserError, match="groups_digest"):
        _imported(folder, tiny_model, backbone)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


TRAPS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (lambda f: (f / "001_neg.safetensors").unlink(), "001_neg.safetensors: no such file"),
    "truncated": (lambda f: _truncate(f / "001.safetensors"), "001.safetensors: is cut short or no safetensors file"),
    "other key": (
        lambda f: save_file({"latents": _latent(0)}, f / "001.safetensors"),
        "001.safetensors: holds no tensor `latent`",
    ),
    "not finite": (
        lambda f: save_file({"latent": _latent(0) / 0}, f / "001.safetensors"),
        "001.safetensors: holds values that are not finite",
    ),
    "whole numbers": (
        lambda f: save_file({"latent": _latent(0).int()}, f / "001.safetensors"),
        "001.safetensors: its latent is of int32; fp16, bf16 and fp32 are taken",
    ),
    "fp8": (
        lambda f: save_file({"latent": _latent(0).to(torch.float8_e4m3fn)}, f / "001.safetensors"),
        "001.safetensors: its latent is of float8_e4m3fn",
    ),
    "complex": (
        lambda f: save_file({"latent": _latent(0).to(torch.complex64)}, f / "001.safetensors"),
        "001.safetensors: its latent is of complex64",
    ),
    "two shapes": (
        lambda f: save_file({"latent": _latent(0, (4, 8, 10))}, f / "001.safetensors"),
        "winner and loser have different shapes, [4, 8, 10] and [4, 8, 8]",
    ),
    "same": (lambda f: save_file({"latent": _latent(3)}, f / "001.safetensors"), "are the same latent"),
}


@pytest.mark.parametrize("trap", TRAPS)
def test_traps(folder: Path, tiny_model: Path, backbone: Backbone, trap: str) -> None:
    spoil, reason = TRAPS[trap]
    spoil(folder / "latents")
    assert len(_imported(folder, tiny_model, backbone)) == NUM - 1
    (line,) = (folder / "out" / "skipped.jsonl").read_text().splitlines()
    assert json.loads(line)["name"] == "line 2" and reason in json.loads(line)["reason"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"pos_file": "../metadata.jsonl"}, "../metadata.jsonl: leaves the folder"),
        ({"neg_file": "/etc/hosts"}, "/etc/hosts: leaves the folder"),
        ({"neg_prompt": " "}, "has no caption"),
    ],
)
def test_lines_that_cannot_be_used(
    folder: Path, listed: Any, reasons: Any, changes: dict[str, Any], reason: str
) -> None:
    _write(folder, _row(0), _row(1, **changes))
    assert reasons(listed(folder)) == {"line 2": reason}


def test_lines_that_are_wrong(folder: Path, listed: Any) -> None:
    without = {name: value for name, value in _row(1).items() if name != "neg_file"}
    _write(folder, _row(0), without)
    with pytest.raises(UserError, match=r"metadata\.jsonl: line 2: has no `neg_file` field"):
        listed(folder)


@pytest.mark.parametrize("shape", [(16, 8, 8), (1, 4, 8, 8), (4, 64)])
def test_latents_of_another_model(folder: Path, tiny_model: Path, backbone: Backbone, shape: tuple[int, ...]) -> None:
    save_file({"latent": _latent(0, shape)}, folder / "latents" / "001.safetensors")
    with pytest.raises(UserError, match=r"001\.safetensors: a latent of shape .* was not drawn by .*name the --model"):
        _imported(folder, tiny_model, backbone)


@pytest.mark.parametrize("setting", [{"resolution": 16}, {"flip": True}, {"crop": "random"}, {"ties": "half"}])
def test_settings_of_images_are_refused(
    folder: Path, tiny_model: Path, backbone: Backbone, setting: dict[str, Any]
) -> None:
    with pytest.raises(UserError, match=f"{next(iter(setting))}: .*leave the setting out"):
        _imported(folder, tiny_model, backbone, **setting)
