"""Masks of inpainted photographs: saved beside their images, and stored with the pairs at the latents' size."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny_vision
import torch
from photo_table import rows
from PIL import Image

from contrapose.backbones.base import Backbone
from contrapose.backbones.families.table import load_backbone
from contrapose.errors import UserError
from contrapose.photographs.real import Real, make_pairs
from contrapose.photographs.spoil.inpaint import Inpaint
from contrapose.store.fitting import Fitting
from contrapose.store.groups import GroupStore


@pytest.fixture
def backbone(tiny_model: Path) -> Backbone:
    return load_backbone(tiny_model)


@pytest.fixture
def settings(tiny_model: Path, tmp_path: Path) -> Real:
    for number, size in enumerate([(40, 40), (60, 40), (64, 64), (44, 40)]):
        path = tmp_path / "photos" / f"p{number}.png"
        path.parent.mkdir(exist_ok=True)
        tiny_vision.noise_image(number, size).save(path)
        path.with_suffix(".txt").write_text(f"a red circle number {number}")
    fitting = Fitting(resolution=32, flip=True, crop="random")
    return Real(str(tiny_model), tmp_path / "photos", spoil=Inpaint(), steps=2, shard_size=3, fitting=fitting)


def test_why_and_mask_are_kept(settings: Real, backbone: Backbone, tmp_path: Path) -> None:
    out = tmp_path / "out"
    list(make_pairs(settings, backbone, out))
    assert {json.loads(row["why"])["kind"] for row in rows(out, "reason IS NULL")} == {"inpaint"}
    store = GroupStore(out)
    assert store.manifest["format"] == 4 and len(store.shapes) > 1
    # some photographs are mirrored, and their masks with them
    assert {settings.fitting.flips(record.seed) for record in store.records} == {True, False}
    for index, record in enumerate(store.records):
        images = [Image.open(out / "images" / f"{record.id}.{name}.png") for name in ("winner", "loser", "mask")]
        winner, loser, mask = (torch.from_numpy(np.array(image)).float() for image in images)
        assert torch.equal(winner[mask == 0], loser[mask == 0]) and not torch.equal(winner, loser)
        # of every latent the mean over its 2 x 2 pixels
        means = mask.unfold(0, 2, 2).unfold(1, 2, 2).mean((2, 3))
        assert torch.equal((store.mask(index) * 255).round(), means.round())
        assert store.mask(index).shape == store.shape(index)[1:]


def test_pairs_of_an_earlier_version_are_encoded_again_for_masks(
    settings: Real, backbone: Backbone, tmp_path: Path
) -> None:
    path = tmp_path / "out/pairs.yaml"
    list(make_pairs(settings, backbone, path.parent))
    path.write_text(path.read_text().replace("format: 4", "format: 3"))
    with pytest.raises(
        UserError, match=r"pairs\.yaml: is of format 3, whose shards have no masks; .*encodes the pairs"
    ):
        list(make_pairs(settings, backbone, path.parent))
    for file in [path, *path.parent.glob("shard-*")]:
        file.unlink()
    assert {step.stage for step in make_pairs(settings, backbone, path.parent)} == {"encoding"}
    assert GroupStore(path.parent).has_mask(0)
