"""Kept steps, merges, files alone and images on the hub."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from hub_in_memory import ADDRESS, WEIGHTS, Hub, finish
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from contrapose.backbones.families.table import KOHYA_LAYOUTS
from contrapose.documents import front_matter
from contrapose.errors import UserError
from contrapose.guiding.merge import merge
from contrapose.guiding.settings import Merge
from contrapose.publish.hub import Upload, push
from contrapose.runs.kohya import convert


def _keep(folder: Path, step: int) -> None:
    kept = folder / "checkpoints" / f"step-{step:06d}"
    kept.mkdir(exist_ok=True)
    shutil.copy(folder / WEIGHTS, kept / WEIGHTS)


def test_a_kept_step(hub: Hub, tmp_path: Path) -> None:
    folder = finish(tmp_path, full=False)
    (folder / "finished.json").unlink()
    _keep(folder, 1)
    lines = [{"step": 1, "held_out/accuracy": 0.25}, {"step": 2, "held_out/accuracy": 0.5}]
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    for named in ("run@1", "run@last"):
        push(tmp_path / named, "me/aligned")
        assert set(hub.uploaded()) == {"README.md", "run.yaml", "metrics.jsonl", WEIGHTS}
        assert json.loads(hub.uploaded()["metrics.jsonl"]) == lines[0]
        card = hub.uploaded()["README.md"].decode()
        assert "step 1 of 200" in card and "0.25" in card
    with pytest.raises(UserError, match="step 7 is not kept"):
        push(tmp_path / "run@7", "me/aligned")


def test_a_kept_step_of_a_run_in_full_has_no_pipeline(api: Mock, tmp_path: Path) -> None:
    folder = finish(tmp_path, full=True)
    with pytest.raises(UserError, match=r"run@1: a kept step .* 'contrapose merge --model .* --positive .*run@1 --out"):
        push(tmp_path / f"{folder.name}@1", "me/aligned")
    api.whoami.assert_not_called()


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_broken_configuration_is_named(api: Mock, tmp_path: Path, content: str) -> None:
    folder = finish(tmp_path, full=True)
    config = folder / "model" / "unet" / "config.json"
    config.write_text(content)
    with pytest.raises(UserError, match=re.escape(str(config))):
        push(folder, "me/aligned")
    api.whoami.assert_not_called()


@pytest.mark.parametrize("full", [False, True])
def test_a_merge(hub: Hub, tmp_path: Path, full: bool) -> None:
    folder = finish(tmp_path, full=False)
    stored = load_file(folder / WEIGHTS)
    with safe_open(folder / WEIGHTS, "pt") as file:
        notes = file.metadata()
    save_file({name: torch.ones_like(value) for name, value in stored.items()}, folder / WEIGHTS, notes)
    merge(Merge(str(tmp_path / "model"), folder, scale=1.5, full=full), tmp_path / "merged")
    push(tmp_path / "merged", "me/merged")
    uploaded = hub.uploaded("me/merged")
    written = {path.relative_to(tmp_path / "merged").as_posix() for path in (tmp_path / "merged").rglob("*.*")}
    assert set(uploaded) == {"README.md", *(name for name in written if not name.startswith("."))}
    card = uploaded["README.md"].decode()
    assert "- Strength w: 1.5" in card and "- Towards: run" in card and "\n\n\n" not in card
    assert ("DiffusionPipeline.from_pretrained('me/merged')" in card) is full
    assert ("load_lora_weights('me/merged')" in card) is not full
    assert all(str(tmp_path).encode() not in content for content in uploaded.values())
    assert push(tmp_path / "merged", "me/merged").num_new == 0
    assert not (tmp_path / "merged" / "README.md").exists(), "a merge knows its own files"


def test_an_exported_file_alone_and_beside_its_run(hub: Hub, tmp_path: Path) -> None:
    folder = finish(tmp_path, full=False)
    convert(folder, tmp_path / "mine.safetensors", KOHYA_LAYOUTS)
    push(tmp_path / "mine.safetensors", "me/file")
    assert set(hub.uploaded("me/file")) == {"README.md", "mine.safetensors"}
    card = hub.uploaded("me/file")["README.md"].decode()
    assert "load_lora_weights('me/file', weight_name='mine.safetensors')" in card
    push(folder, "me/aligned")
    of_run = hub.uploaded()["README.md"]
    assert push(tmp_path / "mine.safetensors", "me/aligned") == Upload(ADDRESS, 1, True, False)
    assert hub.uploaded()["README.md"] == of_run
    assert "mine.safetensors" in hub.uploaded()


def test_images_of_a_folder_are_the_gallery(hub: Hub, tmp_path: Path) -> None:
    folder = finish(tmp_path, full=False)
    (tmp_path / "drawn" / "00000" / "samples").mkdir(parents=True)
    (tmp_path / "drawn" / "00000" / "metadata.jsonl").write_text('{"prompt": "a red fox"}\n')
    Image.new("RGB", (4, 4)).save(tmp_path / "drawn" / "00000" / "samples" / "0000.png")
    push(folder, "me/aligned", images=tmp_path / "drawn")
    name = "images/00000/samples/0000.png"
    assert hub.uploaded()[name] == (tmp_path / "drawn/00000/samples/0000.png").read_bytes()
    head = front_matter(hub.uploaded()["README.md"].decode())
    assert head["widget"] == [{"text": "a red fox", "output": {"url": name}}]
    with pytest.raises(UserError, match="pairs: holds no images; name a folder that 'contrapose sample' wrote"):
        push(folder, "me/aligned", images=tmp_path / "pairs")
