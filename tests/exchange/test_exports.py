"""Exported pairs: what a reader of Pick-a-Pic finds, and what comes back by importing it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from changing import changed
from PIL import Image

from contrapose.backbones.base import Backbone
from contrapose.backbones.families.table import load_backbone
from contrapose.errors import UserError
from contrapose.exchange import exports
from contrapose.exchange.columns import row_form, winner_side
from contrapose.exchange.exports import Export, export_pairs
from contrapose.exchange.imports import Import, import_pairs, plan_import, read_listing
from contrapose.store.groups import GroupStore
from contrapose.store.records import GroupRecord
from contrapose.store.shard_files import write_shard
from contrapose.worlds.shapes.render import Object, render
from contrapose.worlds.shapes.shipped import shipped_model


@pytest.fixture(scope="module")
def backbone(tiny_model: Path) -> Backbone:
    return load_backbone(tiny_model)


def _run(steps: Iterable[int]) -> list[int]:
    return list(steps)


def _export(store: GroupStore, backbone: Backbone, out: Path, settings: Export | None = None) -> Path:
    done = _run(export_pairs(settings or Export(), store, backbone, out))
    assert done == sorted(done) and done[-1] == len(store)
    return out


def _pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def _decoded(backbone: Backbone, latent: torch.Tensor) -> np.ndarray:
    pixels = backbone.images.decode(latent[None])[0].permute(1, 2, 0).numpy()
    return np.clip(np.round((pixels / 2 + 0.5) * 255), 0, 255)


@pytest.mark.parametrize("batch_size", [1, 5])
def test_rows_are_the_records(tiny_pairs: Path, backbone: Backbone, tmp_path: Path, batch_size: int) -> None:
    store = GroupStore(tiny_pairs)
    table = pq.read_table(_export(store, backbone, tmp_path / "a.parquet", Export(batch_size=batch_size)))
    names = ["uid", "jpg_0", "jpg_1", "label_0", "label_1", "caption", "degraded_prompt"]
    assert table.schema.names == names
    for index, (row, record) in enumerate(zip(table.to_pylist(), store.records, strict=True)):
        assert (row["uid"], row["caption"], row["degraded_prompt"]) == (record.id, record.prompt, record.degraded)
        side = winner_side(record)
        assert (row[f"label_{side}"], row[f"label_{1 - side}"]) == (1.0, 0.0)
        for column, field in ((f"jpg_{side}", "winner"), (f"jpg_{1 - side}", "loser")):
            assert np.abs(_pixels(row[column]) - _decoded(backbone, store.latent(field, index))).max() <= 1
    assert {winner_side(record) for record in store.records} == {0, 1}


def test_sides_are_even_whatever_the_seeds() -> None:
    """Drawn pairs of different prompts share their seed."""
    sides = [winner_side(GroupRecord.pair(f"{n:04x}-0", "a", "", 7)) for n in range(1000)]
    assert 430 < sum(sides) < 570
    assert len({winner_side(GroupRecord.pair("a-0", "a", "", seed)) for seed in range(20)}) == 2


def test_what_is_exported_is_imported_again(
    tiny_pairs: Path, tiny_model: Path, backbone: Backbone, tmp_path: Path
) -> None:
    """Same winners and prompts; latents are what the autoencoder makes of the images."""
    store = GroupStore(tiny_pairs)
    out = _export(store, backbone, tmp_path / "a.parquet")
    again = _imported(tiny_model, out, backbone, tmp_path / "again", ties="half")
    assert len(again) == len(store)
    found = {record.prompt: index for index, record in enumerate(again.records)}
    for index, record in enumerate(store.records):
        mine = found[record.prompt]
        assert again.records[mine].degraded == record.degraded
        assert again.records[mine].preference == 1.0
        for field in ("winner", "loser"):
            image = torch.from_numpy(_decoded(backbone, store.latent(field, index))).permute(2, 0, 1)[None]
            expected = backbone.images.encode(image.float() / 127.5 - 1)[0]
            assert torch.allclose(again.latent(field, mine), expected, atol=0.05)
            other = "loser" if field == "winner" else "winner"
            assert (again.latent(field, mine) - expected).norm() < (again.latent(other, mine) - expected).norm()


def _imported(model: Path, source: Path, backbone: Backbone, out: Path, **reading: str) -> GroupStore:
    settings = changed(Import(str(model), source=source), max_scale_up=1.0, **reading)
    _run(import_pairs(settings, plan_import(settings, read_listing(settings), backbone), backbone, out))
    assert (out / "skipped.jsonl").read_text() == ""
    return GroupStore(out)


def test_shares_ties_and_latents_through_a_real_autoencoder(tmp_path: Path, write_store) -> None:
    """The shapes model's: latents come back close, and an imported store exports to the very same labels."""
    backbone = load_backbone(shipped_model())
    renders = [render((Object("circle", color, 20 + 4 * n, 30, 10),)) for n in range(4) for color in ("red", "blue")]
    pixels = torch.from_numpy(np.stack(renders)).permute(0, 3, 1, 2).float() / 127.5 - 1
    latents = backbone.images.encode(pixels).unflatten(0, (4, 2))
    records = [GroupRecord.pair(f"p{n}", f"circle {n}", "", n, share) for n, share in enumerate((1.0, 0.7, 0.5, 0.9))]
    write_store(tmp_path / "pairs", records, {"winner": latents[:, 0], "loser": latents[:, 1]})
    store = GroupStore(tmp_path / "pairs")
    out = _export(store, backbone, tmp_path / "a.parquet")
    assert "degraded_prompt" not in pq.read_schema(out).names
    again = _imported(shipped_model(), out, backbone, tmp_path / "again", ties="half")
    found = {record.prompt: index for index, record in enumerate(again.records)}
    for index, record in enumerate(records):
        mine = found[record.prompt]
        assert again.records[mine].preference == pytest.approx(record.preference)
        fields = ["winner", "loser"]
        if record.preference == 0.5 and winner_side(record) == 1:  # of a tie, the first image is the winner
            fields.reverse()
        for field, kept in zip(fields, ("winner", "loser"), strict=True):
            before, after = store.latent(field, index), again.latent(kept, mine)
            assert (after - before).norm() < 0.1 * before.norm()


def test_likes_and_dislikes_in_trls_form(
    tmp_path: Path, tiny_model: Path, backbone: Backbone, write_store: Callable[..., Path]
) -> None:
    """An image, a prompt and a truth value a row, which come back as the groups that they were."""
    records = [GroupRecord(f"p{n}", f"circle {n}", "", n, (float(n % 2),)) for n in range(3)]
    write_store(tmp_path / "likes", records, torch.randn(3, 1, 4, 8, 8))
    store = GroupStore(tmp_path / "likes")
    out = _export(store, backbone, tmp_path / "a.parquet", Export(batch_size=2))
    rows = pq.read_table(out).to_pylist()
    assert [(row["prompt"], row["label"]) for row in rows] == [(r.prompt, r.labels == (1.0,)) for r in records]
    for index, row in enumerate(rows):
        decoded = _decoded(backbone, store.latent(0, index))
        assert np.abs(_pixels(row["completion"]["bytes"]) - decoded).max() <= 1
    features = json.loads(pq.read_schema(out).metadata[b"huggingface"])["info"]["features"]
    assert features["completion"] == {"_type": "Image"} and set(features) == {"prompt", "completion", "label"}
    again = _imported(tiny_model, out, backbone, tmp_path / "again", likes="single")
    assert {(r.prompt, r.labels) for r in again.records} == {(r.prompt, r.labels) for r in records}


@pytest.mark.parametrize(
    ("labels", "line"),
    [([(1.0,), (0.7,)], "record p1: its label is 0.7, and this format has 1 for a like"),
     ([(1.0,), (1.0, 0.0)], "holds other groups than pairs alone, or likes and dislikes alone")],
)  # fmt: skip
def test_groups_that_neither_form_has_a_place_for(tmp_path: Path, labels: list[tuple[float, ...]], line: str) -> None:
    records = [GroupRecord(f"p{n}", "a", "", n, label) for n, label in enumerate(labels)]
    for number, record in enumerate(records):
        write_shard(tmp_path, number, [record], torch.randn(1, record.num_samples, 4, 8, 8))
    (tmp_path / "pairs.yaml").write_text("num_groups: 2")
    with pytest.raises(UserError, match=line):
        row_form(GroupStore(tmp_path))


def test_jpeg(tiny_pairs: Path, backbone: Backbone, tmp_path: Path) -> None:
    row = pq.read_table(
        _export(GroupStore(tiny_pairs), backbone, tmp_path / "a.parquet", Export(image_format="jpeg"))
    ).to_pylist()[0]
    assert Image.open(io.BytesIO(row["jpg_0"])).format == "JPEG"


def test_rows_go_out_in_groups(
    tiny_pairs: Path, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "_GROUP", 5)
    store = GroupStore(tiny_pairs)
    file = pq.ParquetFile(_export(store, backbone, tmp_path / "a.parquet"))
    assert [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)] == [5, 5, len(store) - 10]


def test_a_killed_export_leaves_nothing(tiny_pairs: Path, backbone: Backbone, tmp_path: Path) -> None:
    steps = export_pairs(Export(), GroupStore(tiny_pairs), backbone, tmp_path / "a.parquet")
    next(steps)
    steps.close()
    assert list(tmp_path.iterdir()) == []


def test_pairs_of_another_model(tiny_pairs: Path, tiny_v_model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"these pairs were made with another model .*name that one with --model"):
        _export(GroupStore(tiny_pairs), load_backbone(tiny_v_model), tmp_path / "a.parquet")
    assert not (tmp_path / "a.parquet").exists()


def test_counts() -> None:
    with pytest.raises(UserError, match="batch_size 0"):
        changed(Export(), batch_size=0)
