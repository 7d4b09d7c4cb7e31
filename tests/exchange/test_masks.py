"""Masks of pairs: read with their rows, cut as their winners are, exported, and back to the bit."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import tiny_vision
from changing import changed
from PIL import Image

from contrapose.backbones.base import Backbone
from contrapose.backbones.families.table import load_backbone
from contrapose.errors import UserError
from contrapose.exchange.exports import Export, export_pairs
from contrapose.exchange.imports import Import, import_pairs, plan_import, read_listing
from contrapose.store.groups import GroupStore

LATENT = 8  # a side of the tiny model's latents, of images of 16 x 16


@pytest.fixture(scope="module")
def backbone(tiny_model: Path) -> Backbone:
    return load_backbone(tiny_model)


@pytest.fixture
def import_of(tiny_model: Path, backbone: Backbone, tmp_path: Path) -> Callable[..., GroupStore]:
    """Imports a source into `name`."""

    def bring(source: Path, name: str = "pairs", **settings: Any) -> GroupStore:
        chosen = changed(Import(str(tiny_model), source=source), max_scale_up=8.0, **settings)
        out = tmp_path / name
        list(import_pairs(chosen, plan_import(chosen, read_listing(chosen), backbone), backbone, out))
        return GroupStore(out)

    return bring


def _rows(folder: Path, *masks: str | None, field: str = "mask", size: int = 16) -> Path:
    """A listing of pairs, each with the mask that it names, or without."""
    folder.mkdir(exist_ok=True)
    lines = []
    for number, mask in enumerate(masks):
        row: dict[str, Any] = {"prompt": f"a red circle {number}"}
        for side, key in enumerate(("chosen", "rejected")):
            row[key] = f"{key}-{number}.png"
            tiny_vision.noise_image(2 * number + side, (size, size)).save(folder / row[key])
        if mask is not None:
            row[field] = mask
        lines.append(json.dumps(row))
    path = folder / "metadata.jsonl"
    path.write_text("\n".join(lines))
    return path


def _levels(seed: int, side: int = LATENT) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side), dtype=np.uint8)


def _stored(store: GroupStore, index: int) -> np.ndarray:
    return (store.mask(index) * 255).round().byte().numpy()


def _skipped(out: Path) -> list[str]:
    return [json.loads(line)["reason"] for line in (out / "skipped.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("field", ["mask", "mask_path"])
def test_a_mask_of_the_latents_size_is_stored_as_it_is(tmp_path: Path, import_of, field: str) -> None:
    source = _rows(tmp_path / "rows", "m.png", field=field)
    Image.fromarray(_levels(0)).save(source.with_name("m.png"))
    store = import_of(source)
    assert np.array_equal(_stored(store, 0), _levels(0))
    assert "format: 4" in (store.folder / "pairs.yaml").read_text()


def test_a_mask_of_the_images_size_is_averaged_over_latents(tmp_path: Path, import_of) -> None:
    source = _rows(tmp_path / "rows", "m.png")
    levels = _levels(1, 16)
    Image.fromarray(levels).save(source.with_name("m.png"))
    means = levels.reshape(LATENT, 2, LATENT, 2).astype(np.float64).mean(axis=(1, 3))
    assert np.array_equal(_stored(import_of(source), 0), np.round(means).astype(np.uint8))


def test_it_is_cut_as_the_winner_is(tmp_path: Path, import_of) -> None:
    """Mirrored where the pair is."""
    source = _rows(tmp_path / "rows", *(f"m{n}.png" for n in range(6)))
    for number in range(6):
        Image.fromarray(_levels(number, LATENT)).save(source.with_name(f"m{number}.png"))
    flipped = import_of(source, flip=True)
    mirrored = []
    for index, record in enumerate(flipped.records):
        levels = _levels(int(record.prompt.split()[-1]))
        mirrored.append(np.array_equal(_stored(flipped, index), levels[:, ::-1]))
        assert mirrored[-1] or np.array_equal(_stored(flipped, index), levels)
    assert set(mirrored) == {True, False}


def test_of_a_wider_image_the_middle_is_cut(tmp_path: Path, import_of) -> None:
    """White on the right, as before, with the edge in the middle."""
    source = _rows(tmp_path / "rows", "m.png")
    for number, side in enumerate(("chosen", "rejected")):
        tiny_vision.noise_image(number, (64, 16)).save(source.with_name(f"{side}-0.png"))
    halves = np.zeros((16, 64), dtype=np.uint8)
    halves[:, 32:] = 255
    Image.fromarray(halves).save(source.with_name("m.png"))
    levels = _stored(import_of(source), 0)
    half = levels.shape[1] // 2
    assert levels.shape[1] < 2 * levels.shape[0] + 2
    assert (levels[:, : half - 1] == 0).all() and (levels[:, -half + 1 :] == 255).all()


def test_pairs_with_and_without_lie_apart(tmp_path: Path, import_of) -> None:
    source = _rows(tmp_path / "rows", "m.png", None, "", "m.png")
    Image.fromarray(_levels(2)).save(source.with_name("m.png"))
    store = import_of(source)
    masked = {record.prompt[-1]: store.has_mask(index) for index, record in enumerate(store.records)}
    assert masked == {"0": True, "1": False, "2": False, "3": True}
    assert len(store.shards) == 2
    plain = import_of(_rows(tmp_path / "rows", None, None, None, None), "plain")
    assert "format: 3" in (plain.folder / "pairs.yaml").read_text()
    assert {r.id for r in plain.records} & {r.id for r in store.records} == {
        record.id for record in store.records if record.prompt[-1] in "12"
    }


def test_what_is_no_mask_leaves_its_pair_out(tmp_path: Path, import_of) -> None:
    source = _rows(tmp_path / "rows", "small.png", "missing.png", "../out.png", "broken.png", None)
    Image.fromarray(_levels(0, 5)).save(source.with_name("small.png"))
    source.with_name("broken.png").write_bytes(b"no image")
    store = import_of(source)
    assert len(store) == 1
    missing, outside, small, broken = _skipped(store.folder)  # those that the listing tells of come first
    assert "small.png: is a mask of 5x5 pixels for a winner of 16x16; save it as large as the winner" in small
    assert "missing.png" in missing and "out.png" in outside and "broken.png" in broken


@pytest.mark.parametrize("image_format", ["png", "jpeg"])
def test_an_export_brings_them_back_to_the_bit(
    backbone: Backbone, tmp_path: Path, import_of, image_format: Any
) -> None:
    source = _rows(tmp_path / "rows", "m0.png", None, "m2.png")
    for number in (0, 2):
        Image.fromarray(_levels(number)).save(source.with_name(f"m{number}.png"))
    store = import_of(source)
    out = tmp_path / "a.parquet"
    list(export_pairs(Export(image_format=image_format), store, backbone, out))
    files = {row["caption"][-1]: row["mask"] for row in pq.read_table(out).to_pylist()}
    assert files["1"] is None
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(files["2"]))), _levels(2))
    again = import_of(out, "again")
    assert len(again) == 3
    for index, record in enumerate(again.records):
        number = int(record.prompt[-1])
        assert again.has_mask(index) == (number != 1)
        if number != 1:
            assert np.array_equal(_stored(again, index), _levels(number))


def test_a_store_without_masks_has_no_column(backbone: Backbone, tmp_path: Path, tiny_pairs: Path) -> None:
    list(export_pairs(Export(), GroupStore(tiny_pairs), backbone, tmp_path / "a.parquet"))
    assert "mask" not in pq.read_schema(tmp_path / "a.parquet").names


def test_an_older_folder_of_the_same_rows_is_not_added_to(tmp_path: Path, import_of) -> None:
    source = _rows(tmp_path / "rows", None)
    import_of(source)
    _rows(tmp_path / "rows", "m.png")
    Image.fromarray(_levels(0)).save(source.with_name("m.png"))
    with pytest.raises(UserError, match="is of format 3, whose shards have no masks"):
        import_of(source)
