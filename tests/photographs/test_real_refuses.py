"""What pairs of photographs cannot be made of, in one line each; captions that are written; and flat memory."""

from __future__ import annotations

import gc
import shutil
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_vision
import torch
from changing import changed
from photo_table import rows
from PIL import Image

from contrapose.backbones.families.table import load_backbone
from contrapose.containers.images import digest
from contrapose.containers.stored import InFile
from contrapose.errors import UserError
from contrapose.judges.clip_score import CLIPScore
from contrapose.judges.pick_score import PickScore
from contrapose.photographs import looking, real
from contrapose.photographs.captions import Captioner
from contrapose.photographs.filters import CaptionLength, PhotoSize, ScorerGap, TopK
from contrapose.photographs.photos import Look, Photo
from contrapose.photographs.real import Real, make_pairs
from contrapose.photographs.spoil.degrade import Degrade
from contrapose.photographs.table import TABLE, PhotoTable
from contrapose.store.fitting import Fitting
from contrapose.store.groups import GroupStore


@pytest.fixture(scope="module")
def backbone(tiny_model):
    return load_backbone(tiny_model)


@pytest.fixture
def settings(tiny_model, tmp_path):
    """Four photographs, the last two without captions."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(4):
        tiny_vision.noise_image(number).save(folder / f"{number}.png")
        if number < 2:
            (folder / f"{number}.txt").write_text("a red circle", encoding="utf-8")
    return Real(str(tiny_model), folder, spoil=Degrade(), fitting=Fitting(resolution=32))


def refused(settings, backbone, out):
    with pytest.raises(UserError) as told:
        list(make_pairs(settings, backbone, out))
    assert len(str(told.value).splitlines()) == 1
    return str(told.value)


def make(settings, backbone, out):
    list(make_pairs(settings, backbone, out))
    return GroupStore(out)


def test_what_is_told_before_anything_is_written(settings, backbone, tmp_path):
    out = tmp_path / "out"
    (tmp_path / "empty").mkdir()
    cases = {
        "no such file or folder": {"photos": tmp_path / "none"},
        "holds no photographs": {"photos": tmp_path / "empty"},
        "multiples of 2": {"resolution": 31},
        "nowhere": {"filters": (TopK(3, CLIPScore("nowhere/nothing")),)},
        "pickscore": {"filters": (PhotoSize(), ScorerGap(PickScore()))},
        "captions": {"captioner": Captioner("nowhere/nothing")},
    }
    for told, change in cases.items():
        assert told in refused(changed(settings, **change), backbone, out), told
        assert not out.exists(), told


@pytest.mark.parametrize(
    ("change", "told"),
    [({"batch_size": 0}, "batch_size 0"), ({"shard_size": 0}, "shard_size"), ({"near_duplicates": 64}, "near_dup")],
)
def test_settings_that_mean_nothing(settings, change, told):
    with pytest.raises(UserError, match=told):
        changed(settings, **change)


def test_other_settings_are_refused(settings, backbone, tmp_path):
    make(settings, backbone, tmp_path / "out")
    told = refused(changed(settings, spoil=Degrade(severities=(1,)), seed=1), backbone, tmp_path / "out")
    assert "spoil.severities, seed differ" in told


def test_other_pairs_are_left_alone(settings, backbone, tiny_pairs):
    before = {path: path.read_bytes() for path in tiny_pairs.iterdir()}
    assert "not made of photographs" in refused(settings, backbone, tiny_pairs)
    assert {path: path.read_bytes() for path in tiny_pairs.iterdir()} == before


def test_nothing_is_left(settings, backbone, tmp_path):
    told = refused(changed(settings, filters=(CaptionLength(min_words=9),)), backbone, tmp_path / "out")
    assert "none of its 4 photographs can be used (2 no caption, 2 caption-length)" in told
    assert len((tmp_path / "out/skipped.jsonl").read_text().splitlines()) == 4
    make(settings, backbone, tmp_path / "out")  # mended
    assert len(GroupStore(tmp_path / "out")) == 2


@pytest.mark.parametrize("num_removed", [1, 2])
def test_killed_while_a_folder_is_left_to_other_settings(settings, backbone, tmp_path, monkeypatch, num_removed):
    """What earlier settings left out is never taken for what others do."""
    unlink = Path.unlink
    removed = []

    def killing(path, missing_ok=False):
        if path.name in (TABLE, real.SETTINGS, real.runfile.INPUTS):
            if len(removed) == num_removed:
                raise KeyboardInterrupt
            removed.append(path.name)
        unlink(path, missing_ok=missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", killing)
        with pytest.raises(KeyboardInterrupt):
            make(changed(settings, filters=(CaptionLength(min_words=9),)), backbone, tmp_path / "out")
    assert "filters differ" in refused(settings, backbone, tmp_path / "out")


def test_a_photograph_that_was_exchanged(settings, backbone, tmp_path, monkeypatch):
    def looked(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Degrade, "spoil", looked)
        with pytest.raises(KeyboardInterrupt):
            make(settings, backbone, tmp_path / "out")
    tiny_vision.noise_image(9).save(settings.photos / "1.png")
    assert "was made from another content of photos" in refused(settings, backbone, tmp_path / "out")
    table = PhotoTable(tmp_path / "out" / TABLE, settings.fitting.buckets_for(backbone.images), 1)
    candidate = next(candidate for candidate in table.reaching(1) if candidate.name == "1.png")
    table.close()
    with pytest.raises(UserError, match=r"1\.png was exchanged since it was looked at"):
        candidate.cut(settings.photos)
    (settings.photos / "1.png").unlink()
    with pytest.raises(UserError, match=r"1\.png: cannot be read"):
        candidate.cut(settings.photos)


def _add_photograph(folder):
    tiny_vision.noise_image(9).save(folder / "9.png")


CHANGES = {
    "one more": _add_photograph,
    "one less": lambda folder: (folder / "0.png").unlink(),
    "another name": lambda folder: (folder / "0.png").rename(folder / "00.png"),
    "another caption": lambda folder: (folder / "0.txt").write_text("a blue square"),
    "a caption more": lambda folder: (folder / "3.txt").write_text("a blue square"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_finished_folder_is_not_that_of_other_photographs(settings, backbone, tmp_path, change):
    make(settings, backbone, tmp_path / "out")
    change(settings.photos)
    assert "was made from another content of photos" in refused(settings, backbone, tmp_path / "out")


def test_the_same_photographs_in_another_folder_carry_on(settings, backbone, tmp_path, caplog):
    inside = settings.photos / "pairs"
    make(settings, backbone, inside)
    shutil.copytree(settings.photos, tmp_path / "moved")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "moved/pairs").glob("shard-*")}
    with caplog.at_level("INFO"):
        make(changed(settings, photos=tmp_path / "moved"), backbone, tmp_path / "moved/pairs")
    assert "all pairs were there already" in caplog.text
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "moved/pairs").glob("shard-*")}


def test_a_listing_that_changed(settings, backbone, tmp_path, monkeypatch):
    monkeypatch.setattr(looking, "_AT_ONCE", 1)
    unfit, calls = looking.LookAtPhotos._unfit, iter(range(9))

    def stopping(*arguments):
        if next(calls) == 2:
            raise KeyboardInterrupt
        return unfit(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(looking.LookAtPhotos, "_unfit", stopping)
        with pytest.raises(KeyboardInterrupt):
            make(settings, backbone, tmp_path / "out")
    (settings.photos / "0.png").unlink()
    assert "was made from another content of photos" in refused(settings, backbone, tmp_path / "out")


def test_an_image_that_is_gone(settings, backbone, tmp_path):
    make(settings, backbone, tmp_path / "out")
    for path in (*(tmp_path / "out").glob("shard-*"), *(tmp_path / "out/images").glob("*.loser.png")):
        path.unlink()
    assert "loser.png: gone or broken" in refused(settings, backbone, tmp_path / "out")


def test_a_loser_that_is_the_photograph(settings, backbone, tmp_path, monkeypatch):
    spoil = Degrade.spoil

    def lazy(self, photos, captions, seeds, studio):
        return [
            replace(made, image=photo)
            for made, photo in zip(spoil(self, photos, captions, seeds, studio), photos, strict=True)
        ]

    monkeypatch.setattr(Degrade, "spoil", lazy)
    assert "2 no caption, 2 unspoiled" in refused(settings, backbone, tmp_path / "out")


def test_captions_are_written_where_there_are_none(settings, backbone, tmp_path, tmp_path_factory):
    captioner = Captioner(str(tiny_vision.save_blip(tmp_path_factory.mktemp("blip"))), max_new_tokens=5)
    store = make(changed(settings, captioner=captioner, filters=()), backbone, tmp_path / "out")
    captions = {row["name"]: row["caption"] for row in rows(tmp_path / "out")}
    assert captions["0.png"] == captions["1.png"] == "a red circle"

    images = [
        Image.open(settings.photos / f"{number}.png").resize((32, 32), Image.Resampling.LANCZOS) for number in (2, 3)
    ]
    assert [captions["2.png"], captions["3.png"]] == captioner.load("cpu")(images)
    assert {record.prompt for record in store.records} == set(captions.values())
    config = Path(captioner.model) / "config.json"
    config.write_text(config.read_text() + " ")
    told = refused(changed(settings, captioner=captioner, filters=()), backbone, tmp_path / "out")
    assert "was made from another content of captioner.model" in told


@pytest.fixture
def prompt_collections():
    """Garbage is collected as Python does by itself, and not when there is as much of it as the other tests let be."""
    seldom = gc.get_threshold()
    gc.set_threshold(700, 10, 10)
    yield
    gc.set_threshold(*seldom)


@pytest.mark.usefixtures("prompt_collections")
def test_memory_is_flat(settings, backbone, tmp_path, monkeypatch):
    """More than three times the photographs, of which the last filter leaves none: the peak stays where it was."""
    place, seen = InFile(settings.photos / "0.png"), Look(real.Size(40, 40), digest(tiny_vision.noise_image(0)), 0)
    stricter = changed(settings, filters=(CaptionLength(max_words=5),), near_duplicates=None)

    def peak(num):
        def photos(*_):
            return (Photo(f"{n}.png", place, f"a caption of photograph {n} that says too much") for n in range(num))

        monkeypatch.setattr(real, "list_photos", photos)
        monkeypatch.setattr(looking, "look_at_photos", lambda some: ((photo, seen) for photo in some))
        gc.collect()
        tracemalloc.start()
        told = refused(stricter, backbone, tmp_path / f"{num}")
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert f"none of its {num} photographs" in told
        return found

    peak(100)
    few, many = peak(1_000), peak(3_500)
    assert many < few + 40_000


def test_a_limit_takes_the_first_photographs(settings, backbone, tmp_path):
    settings = changed(settings, filters=(), near_duplicates=None)
    every = make(settings, backbone, tmp_path / "all")
    first = make(changed(settings, limit=1), backbone, tmp_path / "first")
    assert [row["name"] for row in rows(tmp_path / "first")] == ["0.png"]
    assert first.records == every.records[:1]
    assert torch.equal(first.latent("loser", 0), every.latent("loser", 0))
    assert "limit" in refused(changed(settings, limit=2), backbone, tmp_path / "first")
