"""Pairs of photographs: the stages in order, every reason told, and a killed run's result that of an unbroken one."""

from __future__ import annotations

import itertools
import json
import os
import signal
import sqlite3
from collections import Counter
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pytest
import tiny_vision
import torch
import yaml
from changing import changed
from photo_table import NAME, change, contents, rows
from PIL import Image

from contrapose.backbones.embeddings import Embeddings
from contrapose.backbones.families.table import load_backbone
from contrapose.errors import UserError
from contrapose.judges.clip_score import CLIPScore
from contrapose.photographs import looking
from contrapose.photographs import real as real_module
from contrapose.photographs.filters import CaptionLength, Colourfulness, PhotoSize, ScorerGap, TopK
from contrapose.photographs.gallery import Gallery
from contrapose.photographs.real import Real, make_pairs
from contrapose.photographs.spoil.degrade import Degrade
from contrapose.photographs.spoil.redraw import Redraw
from contrapose.photographs.spoil.studio import Studio
from contrapose.store.buckets import Size as Pixels
from contrapose.store.check import Findings, check_pairs
from contrapose.store.fitting import Fitting
from contrapose.store.groups import GroupStore
from contrapose.workers import ALONE

SIZES = [(40, 40), (60, 40), (40, 60), (64, 64), (44, 40), (33, 48), (80, 60), (36, 36), (50, 50), (39, 57)]


@pytest.fixture(scope="module")
def backbone(tiny_model):
    return load_backbone(tiny_model)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return CLIPScore(str(tiny_vision.save_clip(tmp_path_factory.mktemp("clip"))))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Ten photographs of several sizes with captions, and one for each reason to be left out."""
    folder = tmp_path_factory.mktemp("photos")
    for number, size in enumerate(SIZES):
        _write(folder, f"p{number}", tiny_vision.noise_image(number, size), f"a red circle number {number}")
    (folder / "below").mkdir()
    _write(folder, "below/q", tiny_vision.noise_image(50, (48, 48)), "two blue stars")
    tiny_vision.noise_image(3, SIZES[3]).save(folder / "copy.jpg", quality=90)
    (folder / "copy.txt").write_text("the same again")
    _write(folder, "long", tiny_vision.noise_image(51, (120, 36)), "a green square")
    _write(folder, "mute", tiny_vision.noise_image(52), None)
    _write(folder, "small", tiny_vision.noise_image(53, (12, 12)), "a small star")
    _write(folder, "word", tiny_vision.noise_image(54), "star")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8 no image")
    return folder


def _write(folder, name, image, caption):
    image.save(folder / f"{name}.png")
    if caption:
        (folder / f"{name}.txt").write_text(caption, encoding="utf-8")


@pytest.fixture
def settings(photos, tiny_model):
    return Real(
        str(tiny_model), photos, spoil=Redraw(0.6), steps=3, shard_size=3, batch_size=2,
        filters=(PhotoSize(max_aspect=2.0), CaptionLength()),
        fitting=Fitting(resolution=32, flip=True, crop="random"),
    )  # fmt: skip


def made(settings, backbone, out):
    progress = list(make_pairs(settings, backbone, out))
    return GroupStore(out), progress


def left_out(out):
    lines = [json.loads(line) for line in (out / "skipped.jsonl").read_text(encoding="utf-8").splitlines()]
    return {line["name"]: (line["kind"], line["reason"]) for line in lines}


def counts(out):
    stages = yaml.safe_load((out / "pairs.yaml").read_text())["stages"]
    return {stage["stage"]: (stage["before"], stage["after"]) for stage in stages}


def test_a_folder_becomes_pairs(settings, backbone, tmp_path):
    store, progress = made(settings, backbone, tmp_path / "out")
    reasons = left_out(tmp_path / "out")
    assert {name: kind for name, (kind, _) in reasons.items()} == {
        "broken.jpg": "unreadable", "mute.png": "no caption", "small.png": "too small", "p3.png": "near duplicate",
        "long.png": "size", "word.png": "caption-length",
    }  # fmt: skip
    assert reasons["p3.png"][1] == "is nearly the same picture as copy.jpg"
    assert {record.prompt for record in store.records} == {
        "the same again", "two blue stars", *(f"a red circle number {number}" for number in range(10) if number != 3)
    }  # fmt: skip
    assert counts(tmp_path / "out") == {
        "photos": (17, 13), "size": (13, 12), "caption-length": (12, 11), "losers": (11, 11)
    }  # fmt: skip
    assert len({(4, *shape[1:]) for shape in store.shapes}) > 1 and store.settings["fitting"]["resolution"] == 32
    assert [p.stage for p in progress if p.done == (p.total or 17)] == [
        "photos", "size", "caption-length", "losers", "encoding", "encoding"
    ]  # fmt: skip
    found = check_pairs(store)
    assert isinstance(found, Findings) and not found.problems


def test_what_is_stored_is_what_was_made(settings, backbone, tmp_path):
    """Both images have the bucket's size, and the latents are theirs."""
    store, _ = made(settings, backbone, tmp_path / "out")
    for index, record in enumerate(store.records):
        for side in ("winner", "loser"):
            image = Image.open(tmp_path / "out/images" / f"{record.id}.{side}.png")
            assert tuple(2 * n for n in store.shape(index)[:0:-1]) == image.size
            pixels = torch.from_numpy(np.asarray(image).astype(np.float32) / 127.5 - 1).permute(2, 0, 1)[None]
            assert torch.allclose(store.latent(side, index), backbone.images.encode(pixels)[0], atol=1e-4)


def test_the_loser_is_the_spoilers_of_the_cut_photograph(settings, backbone, tmp_path):
    store, _ = made(changed(settings, batch_size=3), backbone, tmp_path / "out")
    gallery = Gallery(tmp_path / "out/images", settings.photos)
    studio = Studio(backbone, Embeddings(backbone.text), 3, 7.5)
    for index, record in enumerate(store.records[:4]):
        size = Pixels(*(2 * n for n in store.shape(index)[:0:-1]))
        winner, loser = (gallery.stored(record.id, side, size) for side in ("winner", "loser"))
        [again] = settings.spoil.spoil([winner], [record.prompt], [record.seed], studio)
        difference = np.asarray(again.image, dtype=int) - np.asarray(loser)
        assert abs(difference).max() <= 1


def test_batches_do_not_matter(settings, backbone, tmp_path):
    stores = [made(changed(settings, batch_size=n), backbone, tmp_path / f"{n}")[0] for n in (1, 5)]
    assert stores[0].records == stores[1].records
    for index in range(len(stores[0])):
        for side in ("winner", "loser"):
            assert torch.allclose(stores[0].latent(side, index), stores[1].latent(side, index), atol=0.05)
    assert rows(tmp_path / "1") == rows(tmp_path / "5")


def test_losers_are_made_when_a_filter_needs_them(settings, backbone, clip, tmp_path):
    early, late, gap = Colourfulness(), TopK(3, clip), ScorerGap(clip)

    def stages(*filters):
        run = real_module._Run(changed(settings, filters=filters), backbone, tmp_path, ALONE)
        return [stage.name for stage in run.stages]

    assert stages(early, gap, late) == ["photos", "colourfulness", "losers", "scorer-gap", "top-k"]
    assert stages(early, late) == ["photos", "colourfulness", "top-k", "losers"]
    assert stages() == ["photos", "losers"]


def test_order_changes_the_counts(settings, backbone, clip, tmp_path):
    """The three best pairs of the colourful, or the colourful ones of the three best."""
    some = (Colourfulness(reading="pair"), TopK(6, clip))
    found = {}
    for name, filters in {"there": some, "back": some[::-1]}.items():
        made(changed(settings, filters=filters, spoil=Degrade()), backbone, tmp_path / name)
        found[name] = counts(tmp_path / name)
    assert list(found["there"]) == ["photos", "losers", "colourfulness", "top-k"]
    assert list(found["back"]) == ["photos", "top-k", "losers", "colourfulness"]
    assert found["back"]["top-k"] == (13, 6) and found["there"]["losers"] == (13, 13) != found["back"]["losers"]
    assert found["there"]["top-k"][1] > found["back"]["colourfulness"][1] > 0
    num_losers = {name: len(list((tmp_path / name / "images").glob("*.loser.png"))) for name in found}
    assert num_losers == {"there": 13, "back": 6}, "nothing is spoiled in vain"


def test_a_scorer_is_asked_once(settings, backbone, clip, tmp_path, monkeypatch):
    """The gap's numbers of the winners serve the best of them too."""
    asked = Counter()
    load = CLIPScore.load

    def counted(self, device):
        scorer = load(self, device)
        return replace(
            scorer, measure=lambda images, prompts: (asked.update(prompts), scorer.measure(images, prompts))[1]
        )

    monkeypatch.setattr(CLIPScore, "load", counted)
    filters = (ScorerGap(clip, threshold=-1000.0), TopK(5, clip))
    store, _ = made(changed(settings, filters=filters, spoil=Degrade()), backbone, tmp_path / "out")
    assert len(store) == 5 and set(asked.values()) == {2}


class Killed(BaseException):
    """What no handler catches."""


def _kill(monkeypatch, owner, name, call):
    """Make the `call`-th call of a function the last one."""
    whole, calls = getattr(owner, name), iter(range(1000))

    def dying(*args, **kwargs):
        if next(calls) == call:
            raise Killed
        return whole(*args, **kwargs)

    monkeypatch.setattr(owner, name, dying)


KILLS = [
    ("contrapose.photographs.looking.LookAtPhotos", "_candidate", 5),
    ("contrapose.photographs.looking.LookAtPhotos", "_candidate", 9),
    ("contrapose.photographs.spoil.redraw.Redraw", "spoil", 0),
    ("contrapose.photographs.spoil.redraw.Redraw", "spoil", 4),
    ("contrapose.photographs.gallery.Gallery", "keep", 6),
    ("contrapose.photographs.stages", "scored", 1),
    ("contrapose.photographs.stages", "scored", 5),
    ("contrapose.photographs.filters", "_gaps", 0),
    *[("contrapose.photographs.table", "_findings", call) for call in (3, 16, 30, 47, 60)],
    ("contrapose.store.shards", "write_shard", 0),
    ("contrapose.store.shards", "write_shard", 2),
]


def _owner(path):
    import importlib

    try:
        return importlib.import_module(path)
    except ModuleNotFoundError:
        module, _, name = path.rpartition(".")
        return getattr(importlib.import_module(module), name)


@pytest.fixture(scope="module")
def unbroken(photos, tiny_model, backbone, clip, tmp_path_factory):
    """Settings with every kind of stage, and what an unbroken run makes with them."""
    filters = (PhotoSize(max_aspect=2.0), ScorerGap(clip, threshold=-1000.0), TopK(8, clip))
    settings = Real(
        str(tiny_model),
        photos,
        None,
        Redraw(0.6),
        filters,
        steps=2,
        shard_size=3,
        batch_size=2,
        fitting=Fitting(resolution=32),
    )
    out = tmp_path_factory.mktemp("unbroken") / "out"
    made(settings, backbone, out)
    return settings, contents(out)


@pytest.mark.parametrize(("owner", "name", "call"), KILLS, ids=[f"{name}-{call}" for _, name, call in KILLS])
def test_a_killed_run_carries_on(unbroken, backbone, tmp_path, monkeypatch, owner, name, call):
    settings, expected = unbroken
    monkeypatch.setattr(looking, "_AT_ONCE", 4)
    with monkeypatch.context() as patch:
        _kill(patch, _owner(owner), name, call)
        with pytest.raises(Killed):
            made(settings, backbone, tmp_path / "out")
    made(settings, backbone, tmp_path / "out")
    assert contents(tmp_path / "out") == expected


STATEMENTS = [
    ("CREATE TABLE", 1), ("CREATE INDEX", 1), ("INSERT", 1), ("INSERT", 6), ("UPDATE", 3), ("UPDATE", 20),
    ("COMMIT", 1), ("COMMIT", 2), ("COMMIT", 6), ("COMMIT", 8),
]  # fmt: skip


@pytest.fixture(scope="module")
def degraded(unbroken, backbone, tmp_path_factory):
    """Settings with a filter of photographs and losers that are quick to make, and what an unbroken run makes."""
    settings = replace(unbroken[0], filters=unbroken[0].filters[:1], spoil=Degrade())
    out = tmp_path_factory.mktemp("degraded") / "out"
    made(settings, backbone, out)
    return settings, contents(out)


@pytest.mark.parametrize(("statement", "nth"), STATEMENTS)
def test_a_run_whose_process_was_killed_at_a_statement_carries_on(
    degraded, backbone, tmp_path, monkeypatch, statement, nth
):
    """By the signal that leaves nobody time to tidy up: what SQLite has then beside its file is taken back."""
    settings, expected = degraded
    monkeypatch.setattr(looking, "_AT_ONCE", 4)
    process = os.fork()
    if process == 0:
        connect, left = sqlite3.connect, itertools.count(1)

        def counted(text):
            if text.strip().startswith(statement) and next(left) == nth:
                os.kill(os.getpid(), signal.SIGKILL)

        def connected(*args, **kwargs):
            connection = connect(*args, **kwargs)
            connection.set_trace_callback(counted)
            return connection

        sqlite3.connect = connected
        try:
            torch.set_num_threads(1)
            list(make_pairs(settings, backbone, tmp_path / "out"))
        finally:
            os._exit(0)
    _, status = os.waitpid(process, 0)
    assert os.WIFSIGNALED(status)
    made(settings, backbone, tmp_path / "out")
    assert contents(tmp_path / "out") == expected
    assert [path.name for path in (tmp_path / "out").glob(f"{NAME}*")] == [NAME]


def test_a_finished_run_does_nothing(unbroken, backbone, tmp_path, monkeypatch):
    settings, _ = unbroken
    made(settings, backbone, tmp_path / "out")
    before = contents(tmp_path / "out")
    for owner, name in (
        ("contrapose.photographs.looking.LookAtPhotos", "_unfit"),
        ("contrapose.photographs.spoil.redraw.Redraw", "spoil"),
        ("contrapose.photographs.table.Reaching", "write"),
    ):
        _kill(monkeypatch, _owner(owner), name, 0)
    made(changed(settings, batch_size=7), backbone, tmp_path / "out")
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize("pages", [4, 9, 13, 16])
def test_a_full_disk_is_one_line_and_the_same_command_carries_on(unbroken, backbone, tmp_path, monkeypatch, pages):
    settings, expected = unbroken
    monkeypatch.setattr(looking, "_AT_ONCE", 4)
    connect = sqlite3.connect

    def small(*args, **kwargs):
        connection = connect(*args, **kwargs)
        connection.execute("PRAGMA page_size = 512")
        connection.execute(f"PRAGMA max_page_count = {pages}")
        return connection

    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", small)
        with pytest.raises(UserError, match=r"photographs\.sqlite: the disk is full; free some space and run"):
            made(settings, backbone, tmp_path / "out")
    made(settings, backbone, tmp_path / "out")
    assert contents(tmp_path / "out") == expected


def test_a_broken_table_is_told(settings, backbone, tmp_path):
    made(settings, backbone, tmp_path / "out")
    change(tmp_path / "out", "UPDATE photographs SET seed = 'x' WHERE number = 3")
    with pytest.raises(UserError, match=r"photographs\.sqlite: is broken \(CHECK .*; delete the folder and run"):
        made(settings, backbone, tmp_path / "out")


def test_a_folder_of_an_earlier_version_is_refused_and_its_pairs_are_read(settings, backbone, tmp_path):
    """Its tables were JSON lines; finished pairs are those of every version."""
    out = tmp_path / "out"
    made(settings, backbone, out)
    (out / NAME).unlink()
    (out / "candidates").mkdir()
    (out / "candidates/00-photos.jsonl").write_text("{}\n")
    before = contents(out)
    with pytest.raises(UserError, match=r"was begun by an earlier version.*choose another --out, or delete the folder"):
        made(settings, backbone, out)
    assert contents(out) == before
    assert len(GroupStore(out)) == 11


def test_a_table_of_another_version_is_refused(settings, backbone, tmp_path):
    made(settings, backbone, tmp_path / "out")
    change(tmp_path / "out", "PRAGMA user_version = 3")
    with pytest.raises(UserError, match=r"photographs\.sqlite: is of version 3, and this program reads 2; delete"):
        made(settings, backbone, tmp_path / "out")


def test_photographs_elsewhere_become_the_same_pairs(settings, backbone, photos, tmp_path):
    """By fsspec's file systems, of which the one in memory stands for hf:// and s3:// here."""
    elsewhere = fsspec.filesystem("memory")
    for path in photos.rglob("*.*"):
        elsewhere.pipe(f"/photos/{path.relative_to(photos).as_posix()}", path.read_bytes())
    settings = replace(settings, spoil=Degrade())
    here, _ = made(settings, backbone, tmp_path / "here")
    there, _ = made(replace(settings, photos=Path("memory://photos")), backbone, tmp_path / "there")
    elsewhere.rm("/photos", recursive=True)
    assert here.digest == there.digest
    assert rows(tmp_path / "here") == rows(tmp_path / "there")
    assert left_out(tmp_path / "here") == left_out(tmp_path / "there")
