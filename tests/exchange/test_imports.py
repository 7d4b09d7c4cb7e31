"""Imported pairs: winner and loser stay aligned, bad ones are told and left out, and killed runs carry on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from changing import changed
from PIL import Image

from contrapose.backbones.base import Backbone
from contrapose.backbones.families.table import load_backbone
from contrapose.cli.main import main
from contrapose.errors import UserError
from contrapose.exchange.imports import Import, Plan, import_pairs, plan_import, read_listing
from contrapose.files import aside_of
from contrapose.store.fitting import Fitting
from contrapose.store.groups import GroupStore

SIZES = [(40, 40), (48, 32), (32, 48), (64, 64), (80, 42), (36, 60), (40, 44), (33, 32), (60, 30), (100, 70)]
NO_PROCESS = 2**22 + 1  # beyond the largest number that Linux gives a process


@pytest.fixture(scope="module")
def backbone(tiny_model: Path) -> Backbone:
    return load_backbone(tiny_model)


def _picture(seed: int, size: tuple[int, int]) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)


def _save(path: Path, image: Image.Image, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


@pytest.fixture
def settings(tmp_path: Path, tiny_model: Path) -> Import:
    """Ten pairs of mixed sizes in two folders; the losers have other sizes than their winners."""
    for number, size in enumerate(SIZES):
        _save(tmp_path / "good" / f"p{number}.png", _picture(number, size))
        _save(tmp_path / "bad" / f"p{number}.jpg", _picture(100 + number, SIZES[number - 1]))
        (tmp_path / "good" / f"p{number}.txt").write_text(f"a red circle\nnumber {number}\n", encoding="utf-8")
    return Import(
        str(tiny_model), tmp_path / "good", tmp_path / "bad", shard_size=3, batch_size=2,
        fitting=Fitting(resolution=32, flip=True, crop="random", max_scale_up=2.0),
    )  # fmt: skip


def _plan(settings: Import, backbone: Backbone) -> Plan:
    return plan_import(settings, read_listing(settings), backbone)


def _imported(settings: Import, backbone: Backbone, out: Path) -> GroupStore:
    for _ in import_pairs(settings, _plan(settings, backbone), backbone, out):
        pass
    return GroupStore(out)


def _bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _reasons(plan: Plan) -> dict[str, str]:
    return {entry.name: entry.reason for entry in plan.left_out}


def test_mixed_sizes(settings: Import, backbone: Backbone, tmp_path: Path) -> None:
    store = _imported(settings, backbone, tmp_path / "out")
    assert len(store) == len(SIZES) == len({r.id for r in store.records})
    assert len(store.shapes) > 4
    assert (tmp_path / "out" / "skipped.jsonl").read_text() == ""
    by_prompt = {r.prompt: i for i, r in enumerate(store.records)}
    assert store.shape(by_prompt["a red circle number 0"]) == (4, 16, 16)
    assert store.shape(by_prompt["a red circle number 8"]) == (4, 11, 22)
    assert {(r.degraded, r.preference) for r in store.records} == {("", 1.0)}
    assert store.manifest["import"]["fitting"]["resolution"] == 32
    assert store.manifest["num_groups"] == 10 and store.manifest["fingerprint"] == backbone.fingerprint


def test_latents_are_the_autoencoders(settings: Import, backbone: Backbone, tmp_path: Path) -> None:
    store = _imported(changed(settings, flip=False, crop="center"), backbone, tmp_path / "out")
    index = next(i for i, r in enumerate(store.records) if r.prompt.endswith("3"))
    image = Image.open(tmp_path / "good" / "p3.png").resize((32, 32), Image.Resampling.LANCZOS)
    pixels = torch.from_numpy(np.asarray(image).astype(np.float32) / 127.5 - 1).permute(2, 0, 1)[None]
    assert torch.allclose(store.latent("winner", index), backbone.images.encode(pixels)[0], atol=1e-4)


def test_the_usual_resolution_is_the_models(settings: Import, backbone: Backbone, tmp_path: Path) -> None:
    store = _imported(changed(settings, resolution=None), backbone, tmp_path / "out")
    assert store.manifest["import"]["fitting"]["resolution"] == 16
    assert (4, 8, 8) in store.shapes


@pytest.mark.parametrize("crop", ["center", "random"])
@pytest.mark.parametrize("size", [(64, 64), (128, 128), (128, 96)])
def test_winner_and_loser_stay_aligned(
    settings: Import,
    backbone: Backbone,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    crop: str,
    size: tuple[int, int],
) -> None:
    """A bright spot at the same relative place in two images of one shape, whatever their sizes, is in one place."""
    monkeypatch.setattr(
        backbone.images, "encode", lambda images: F.avg_pool2d(images, 2).mean(1, True).repeat(1, 4, 1, 1)
    )
    folders = [tmp_path / "spots" / name for name in ("good", "bad")]
    for number in range(8):
        for folder, factor in zip(folders, (1, 2), strict=True):
            width, height = (side * factor for side in size)
            pixels = np.zeros((height, width, 3), np.uint8)
            place = [int(side * share) for side, share in ((height, 0.375), (width, 0.5))]
            pixels[tuple(slice(at, at + side // 16) for at, side in zip(place, (height, width), strict=True))] = 255
            pixels[0, 0, 0] = factor  # no two images are the same
            _save(folder / f"{number}.png", Image.fromarray(pixels))
        (folders[0] / f"{number}.txt").write_text(f"a spot {number}")
    mine = changed(settings, winners=folders[0], losers=folders[1], crop=crop, metadata=None)
    store = _imported(mine, backbone, tmp_path / "out")
    places = set()
    for index in range(len(store)):
        winner, loser = (store.latent(side, index)[0] for side in ("winner", "loser"))
        assert winner.argmax() == loser.argmax()
        assert (winner - loser).abs().max() < 0.2
        places.add(int(winner.argmax()))
    assert len(places) > 1, "some pairs are flipped, and both of their images"


def test_settings_decide_crops_and_flips(settings: Import, backbone: Backbone) -> None:
    plan, again = _plan(settings, backbone), _plan(settings, backbone)
    assert [*plan.pairs] == [*again.pairs] and plan.left_out == again.left_out
    assert {fit.flip for pair in plan.pairs for fit in pair.fits} == {True, False}
    assert all(pair.fits[0].flip == pair.fits[1].flip for pair in plan.pairs)
    other = _plan(changed(settings, seed=1), backbone)
    assert [p.fits for p in plan.pairs] != [p.fits for p in other.pairs]
    assert [p.record.id for p in plan.pairs] == [p.record.id for p in other.pairs]
    still = _plan(changed(settings, flip=False, crop="center"), backbone)
    assert not any(fit.flip for pair in still.pairs for fit in pair.fits)


# Files as people have them


def test_modes(settings: Import, backbone: Backbone, tmp_path: Path) -> None:
    for name, save in MODES.items():
        save(tmp_path / "odd" / "good", name)
        _save(tmp_path / "odd" / "bad" / f"{name}.png", _picture(7, (40, 40)))
        (tmp_path / "odd" / "good" / f"{name}.txt").write_text(name)
    odd = changed(settings, winners=tmp_path / "odd" / "good", losers=tmp_path / "odd" / "bad")
    plan = _plan(odd, backbone)
    assert _reasons(plan) == {}
    buckets = {pair.record.prompt: str(pair.size) for pair in plan.pairs}
    assert buckets.pop("turned") == "26x38", "its ratio is that of the upright image"
    assert set(buckets.values()) == {"32x32"}
    assert len(_imported(odd, backbone, tmp_path / "out")) == len(MODES)


def _turned(folder: Path, name: str) -> None:
    image = _picture(5, (60, 42))
    exif = image.getexif()
    exif[0x0112] = 6
    _save(folder / f"{name}.jpg", image, exif=exif)


MODES: dict[str, Callable[[Path, str], None]] = {
    "palette": lambda folder, name: _save(folder / f"{name}.png", _picture(1, (40, 40)).quantize(16)),
    "alpha": lambda folder, name: _save(folder / f"{name}.png", _picture(2, (40, 40)).convert("RGBA")),
    "deep": lambda folder, name: _save(
        folder / f"{name}.png", Image.fromarray(np.arange(1600, dtype=np.uint16).reshape(40, 40) * 40)
    ),
    "print": lambda folder, name: _save(folder / f"{name}.JPG", _picture(3, (40, 40)).convert("CMYK")),
    "grey": lambda folder, name: _save(folder / f"{name}.webp", _picture(4, (40, 40)).convert("L")),
    "turned": _turned,
}


def _truncate(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


TRAPS: dict[str, tuple[Callable[[Path, Path], Any], str]] = {
    "no loser": (lambda good, bad: (bad / "p1.jpg").unlink(), "no image of this name in bad"),
    "truncated JPEG": (lambda good, bad: _truncate(bad / "p1.jpg"), "p1.jpg: cannot be read ("),
    "truncated PNG": (lambda good, bad: _truncate(good / "p1.png"), "p1.png: cannot be read ("),
    "no image": (lambda good, bad: (bad / "p1.jpg").write_text("<html>"), "p1.jpg: cannot be read (cannot identify"),
    "a program": (lambda good, bad: (bad / "p1.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n"), "cannot identify"),
    "same": (lambda good, bad: _save(bad / "p1.jpg", Image.open(good / "p1.png"), format="PNG"), "are the same image"),
    "too small": (
        lambda good, bad: _save(bad / "p1.jpg", _picture(1, (9, 9))),
        "9x9 pixels would be scaled up by 4.22",
    ),
}


@pytest.mark.parametrize("trap", TRAPS)
def test_traps(settings: Import, backbone: Backbone, tmp_path: Path, trap: str) -> None:
    spoil, reason = TRAPS[trap]
    spoil(tmp_path / "good", tmp_path / "bad")
    store = _imported(settings, backbone, tmp_path / "out")
    assert len(store) == 9
    (line,) = (tmp_path / "out" / "skipped.jsonl").read_text(encoding="utf-8").splitlines()
    told = json.loads(line)
    assert told["name"] == "p1"
    assert reason in told["reason"]
    assert str(tmp_path) not in line


def test_decompression_bombs(settings: Import, backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both above PIL's limit, where it warns, and above twice that, where it stops."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3000)
    reasons = _reasons(_plan(settings, backbone))
    assert set(reasons) == {"p3", "p4", "p5", "p9", "p0"}  # those of 64x64, 80x42 and 100x70, as winner or loser
    assert all("more pixels than PIL's limit of 3000" in reason for reason in reasons.values())


# What is asked for


@pytest.mark.parametrize(
    "changes",
    [
        {"losers": None},
        {"winners": None},
        {"winners": None, "losers": None},
        {"metadata": Path("metadata.jsonl")},
        {"source": Path("pairs.parquet")},
        {"winners": None, "losers": None, "metadata": Path("metadata.jsonl"), "source": Path("pairs.parquet")},
        {"winners": None, "source": Path("pairs.parquet")},
    ],
)
def test_one_kind_of_listing(settings: Import, changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="needs one of --winners with --losers, --metadata, and --source"):
        changed(settings, **changes)


def test_a_format_is_that_of_a_source(settings: Import) -> None:
    with pytest.raises(UserError, match="format kto: is that of --source, which is not given"):
        changed(settings, format="kto")


@pytest.mark.parametrize("name", ["shard_size", "batch_size"])
def test_counts(settings: Import, name: str) -> None:
    with pytest.raises(UserError, match=f"{name} 0"):
        changed(settings, **{name: 0})


def test_a_listed_pair_twice_is_two_pairs(settings: Import, backbone: Backbone, tmp_path: Path) -> None:
    """Two people may say the same; `pairs check` remarks on it."""
    row = {"image_0": "good/p0.png", "image_1": "bad/p0.jpg", "prompt": "a blue square", "prefer_0": 1, "prefer_1": 0}
    rows = [row, row, row | {"prefer_0": 0.2, "prefer_1": 0.8}]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    plan = _plan(changed(settings, winners=None, losers=None, metadata=tmp_path / "metadata.jsonl"), backbone)
    assert [pair.images[0].path.parent.name for pair in plan.pairs] == ["good", "good", "bad"]
    assert [pair.record.preference for pair in plan.pairs] == [1.0, 1.0, 0.8]
    ids = [pair.record.id for pair in plan.pairs]
    assert ids[0].removesuffix("-0") == ids[1].removesuffix("-1") != ids[2].removesuffix("-0")


def test_nothing_to_import(settings: Import, backbone: Backbone) -> None:
    with pytest.raises(UserError, match=r"none of its 10 pairs can be used \(p0: winner and loser are the same image"):
        _plan(changed(settings, losers=settings.winners), backbone)


def test_a_resolution_that_the_model_cannot_make(settings: Import, backbone: Backbone) -> None:
    with pytest.raises(UserError, match="resolution 33: this model makes images whose sides are multiples of 2"):
        _plan(changed(settings, resolution=33), backbone)


# Killed and carried on


def _interrupt(pairs: Iterator[int], after: int) -> None:
    for _ in range(after):
        next(pairs)
    pairs.close()


@pytest.mark.parametrize("after", [1, 2, 5, 9])
def test_killed_and_resumed_is_uninterrupted(settings: Import, backbone: Backbone, tmp_path: Path, after: int) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    _imported(settings, backbone, whole)
    _interrupt(import_pairs(settings, _plan(settings, backbone), backbone, cut), after)
    missing = len(list(cut.glob("shard-*")))
    aside_of(cut / f"shard-{missing:05d}.safetensors", NO_PROCESS).write_bytes(b"cut short")
    _imported(settings, backbone, cut)
    assert _bytes(cut) == _bytes(whole)


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"crop": "center"}, {"flip": False}, {"resolution": 16}, {"max_scale_up": 3.0}]
)
def test_changed_settings_are_refused(
    settings: Import, backbone: Backbone, tmp_path: Path, change: dict[str, Any]
) -> None:
    _interrupt(import_pairs(settings, _plan(settings, backbone), backbone, tmp_path / "out"), 1)
    with pytest.raises(UserError, match=rf"import\.(\w+\.)?{next(iter(change))}"):
        _imported(changed(settings, **change), backbone, tmp_path / "out")


def test_an_exchanged_image_is_refused(settings: Import, backbone: Backbone, tmp_path: Path) -> None:
    """All names are the same, but one pair would be of other images."""
    _interrupt(import_pairs(settings, _plan(settings, backbone), backbone, tmp_path / "out"), 1)
    _save(tmp_path / "bad" / "p9.jpg", _picture(999, (60, 30)))
    with pytest.raises(UserError, match="groups_digest"):
        _imported(settings, backbone, tmp_path / "out")


def test_the_same_images_in_other_folders_carry_on(settings: Import, backbone: Backbone, tmp_path: Path) -> None:
    store = _imported(settings, backbone, tmp_path / "out")
    before = [path.stat().st_mtime_ns for path in store.shards]
    moved = {name: shutil.copytree(getattr(settings, name), tmp_path / f"my {name}") for name in ("winners", "losers")}
    again = _imported(changed(settings, **moved), backbone, tmp_path / "out")
    assert [path.stat().st_mtime_ns for path in again.shards] == before
    sorted(moved["losers"].iterdir())[0].unlink()
    with pytest.raises(UserError, match=r"another content of import\.winners, import\.losers"):
        _imported(changed(settings, **moved), backbone, tmp_path / "out")


def test_the_batch_size_may_change(settings: Import, backbone: Backbone, tmp_path: Path) -> None:
    _interrupt(import_pairs(settings, _plan(settings, backbone), backbone, tmp_path / "out"), 4)
    assert len(_imported(changed(settings, batch_size=5), backbone, tmp_path / "out")) == 10


def test_an_image_that_vanishes_meanwhile_is_told(settings: Import, backbone: Backbone, tmp_path: Path) -> None:
    plan = _plan(settings, backbone)
    (tmp_path / "bad" / "p9.jpg").unlink()
    with pytest.raises(UserError, match=r"p9\.jpg: cannot be read .*run the same command again"):
        list(import_pairs(settings, plan, backbone, tmp_path / "out"))


# Through the command line


@pytest.fixture
def imported(settings: Import, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    (tmp_path / "good" / "p9.txt").unlink()
    where = ["--winners", settings.winners, "--losers", settings.losers, "--out", tmp_path / "out", "--device", "cpu"]
    _run("pairs", "import", "--model", settings.model, *where, "--resolution", 32, "--max-scale-up", 2)
    assert "left out 1 of 10 pairs (1 no caption); the reasons are in" in capsys.readouterr().out
    return tmp_path / "out"


def _run(*arguments: object) -> None:
    assert main([str(a) for a in arguments]) == 0


def test_imported_pairs_are_sound(imported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _run("pairs", "check", imported)
    assert capsys.readouterr().out.splitlines()[0].startswith("9 pairs of 9 prompts in ")


def test_a_report_of_imported_pairs(imported: Path, settings: Import, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its facts are those of the import, and the command that it prints is the one that was run."""
    import shlex

    from contrapose.cli import pairs_import
    from contrapose.report.provenance import commands, read_pairs

    pairs = read_pairs(imported, seed=0)
    assert not pairs.drawn
    assert any(fact.label == "Resolution" and fact.value == "32" for fact in pairs.facts)
    (line,) = commands(imported, [], [])
    parsed: list[Any] = []
    monkeypatch.setattr(pairs_import, "bring_in", parsed.append)
    assert main(shlex.split(line)[1:]) == 0
    assert parsed[0].out == imported
    usual = {"crop": "center", "flip": False, "shard_size": 64, "batch_size": 4, "precision": "fp32"}
    assert parsed[0].settings == changed(settings, **usual)


def test_imported_pairs_align(imported: Path, settings: Import, tmp_path: Path) -> None:
    where = ["--model", settings.model, "--pairs", imported, "--out", tmp_path / "run", "--train-steps", 2]
    _run("align", "diffusion-dpo", *where, "--batch-size", 4, "--micro-batch", 2, "--holdout", 1)
    assert json.loads((tmp_path / "run" / "finished.json").read_text())["steps"] == 2


def test_ddspo_needs_degraded_prompts(imported: Path, settings: Import, tmp_path: Path) -> None:
    where = ["--model", settings.model, "--pairs", imported, "--out", tmp_path / "run", "--train-steps", 2]
    assert main([str(a) for a in ("align", "ddspo", *where)]) == 2
