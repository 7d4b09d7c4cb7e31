"""Rankings of more than two images become groups of the store."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from contrapose.backbones.families.table import load_backbone
from contrapose.cli.main import main
from contrapose.containers.images import read_image
from contrapose.exchange.imports import import_pairs, plan_import, read_listing
from contrapose.exchange.settings import Import
from contrapose.pixels import to_tensor
from contrapose.store.buckets import apply
from contrapose.store.fitting import Fitting
from contrapose.store.groups import GroupStore


def test_a_ranking_becomes_a_group(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Three images beside a pair: labels in the listing's order, each image cut to the bucket of the best one."""
    (tmp_path / "ranked").mkdir()
    for number, size in enumerate([(40, 40), (64, 32), (48, 40)]):
        pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "ranked" / f"{number}.png")
    entries = [
        {"prompt": "a cat", "image_path": ["0.png", "1.png", "2.png"], "human_preference": [0, 0.5, 1]},
        {"prompt": "a dog", "image_path": ["0.png", "1.png"], "human_preference": [0, 1]},
        {"prompt": "a cow", "image_path": ["0.png", "1.png", "0.png"], "human_preference": [1, 0, 0]},
    ]
    (tmp_path / "ranked" / "test.json").write_text(json.dumps(entries))
    fitting = Fitting(resolution=32, max_scale_up=2.0)
    settings = Import(str(tiny_model), source=tmp_path / "ranked" / "test.json", fitting=fitting)
    backbone = load_backbone(tiny_model)
    plan = plan_import(settings, read_listing(settings), backbone)
    assert [entry.reason for entry in plan.left_out] == ["two of its images are the same image"]
    list(import_pairs(settings, plan, backbone, tmp_path / "out"))
    store = GroupStore(tmp_path / "out")
    group = next(index for index, record in enumerate(store.records) if record.prompt == "a cat")
    assert store.records[group].labels == (0.0, 0.5, 1.0)
    assert len(plan.pairs) == len(store) == 2
    assert store.latent("winner", group).equal(store.latent("sample 3", group))
    assert not store.latent("winner", group).equal(store.latent("loser", group))
    [ranked] = [pair for pair in plan.pairs if len(pair.images) == 3]
    fitted = np.array(apply(read_image(ranked.images[1]), ranked.fits[1]))
    alone = backbone.images.encode(to_tensor(fitted)[None])[0]
    torch.testing.assert_close(store.latent("sample 2", group), alone.float(), rtol=1e-4, atol=1e-4)
    assert main(["pairs", "check", str(tmp_path / "out")]) == 0
    told = capsys.readouterr().out
    assert "2 groups of 2 prompts in 2 shards: 1 pairs, 1 groups of 3" in told and "groups of 3: 1 in shares" in told
    assert main(["pairs", "export", str(tmp_path / "out"), "--out", str(tmp_path / "p.parquet")]) == 2
    assert "holds other groups than pairs" in capsys.readouterr().err
