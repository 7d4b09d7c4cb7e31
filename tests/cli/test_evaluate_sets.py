"""Numbers of whole sets from the command line, and diversity and drift beside every score, without any weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_vision
import torch
from PIL import Image
from safetensors.torch import save_file

from contrapose.cli.main import main
from contrapose.evaluate.rows import read_rows
from contrapose.evaluate.sets.distances import moments
from contrapose.evaluate.sets.inception import Inception
from contrapose.evaluate.sets.reference import read_set
from contrapose.worlds.shapes.grammar import prompts

LINES = prompts("dev", 1)
Judging = Callable[..., int]
Capture = pytest.CaptureFixture[str]


def write_images(folder: Path, seed: int, num_images: int = 2) -> None:
    """Noise in GenEval's layout; images of one seed are the same in every folder but for a shade."""
    for number, line in enumerate(LINES):
        samples = folder / f"{number:05d}" / "samples"
        samples.mkdir(parents=True)
        (samples.parent / "metadata.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
        for image in range(num_images):
            noise = np.asarray(tiny_vision.noise_image(10 * number + image)) // 2
            Image.fromarray(noise + np.uint8(seed)).save(samples / f"{image:04d}.png")


@pytest.fixture
def judging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Judging:
    """Evaluate images of two models with these flags; gives the exit code."""
    monkeypatch.chdir(tmp_path)
    write_images(Path("images/base"), 0)
    write_images(Path("images/moved"), 40)
    Path("photos").mkdir()
    for number in range(9):
        tiny_vision.noise_image(500 + number).save(f"photos/{number}.png")

    def run(*more: str, suite: str = "set", features: tuple[str, ...] = ("--features", "pixels")) -> int:
        images = [] if "--images" in more else ["--images", "base=images/base", "moved=images/moved"]
        return main(["evaluate", "--suite", suite, *features, *images, "--replicates", "50", "--out", "out", *more])

    return run


def summary(out: str = "out") -> dict[str, Any]:
    values: dict[str, Any] = json.loads((Path(out) / "summary.json").read_text())
    return values


def refused(capsys: Capture, code: int, naming: str) -> None:
    lines = [line for line in capsys.readouterr().err.splitlines() if "looking" not in line]  # the bars
    assert code == 2
    assert len(lines) == 1
    assert naming in lines[0]


def never(*_: object) -> None:
    raise AssertionError("an image was looked at")


def test_a_set_against_photographs_and_against_what_was_saved_of_them(judging: Judging, capsys: Capture) -> None:
    metrics = ["--metrics", "fid", "kid", "precision-recall"]
    assert judging(*metrics, "--reference", "photos", "--save-reference", "stats.npz") == 0
    shown = capsys.readouterr().out
    assert "fid by lab-pixels-8 1, 12 images against 9; lower is better" in shown
    sets = summary()["sets"]
    assert sets["extractor"] == "lab-pixels-8 1"
    assert (sets["num_images"], sets["num_reference"], sets["num_groups"]) == (12, 9, 6)
    assert list(sets["models"]["base"]) == ["fid", "kid", "precision", "recall"]
    for metric, number in sets["models"]["moved"].items():
        gain = sets["differences"]["moved"][metric]
        assert gain["value"] == pytest.approx(number["value"] - sets["models"]["base"][metric]["value"])
        assert gain["interval"]["low"] <= gain["value"] <= gain["interval"]["high"]
    shutil.rmtree("photos")
    assert judging(*metrics, "--reference", "stats.npz", "--out", "again") == 0
    assert summary("again") == summary()


def test_the_same_command_again_looks_at_no_image(
    judging: Judging, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    assert judging("--reference", "photos") == 0
    before = Path("out/summary.json").read_bytes()
    monkeypatch.setattr("contrapose.evaluate.sets.reference.read_image", never)
    assert judging("--reference", "photos") == 0
    assert "judged already" in capsys.readouterr().out
    # as if killed before the end, after all images had been looked at
    for name in ("summary.json", "rows.parquet"):
        Path("out", name).unlink()
        assert judging("--reference", "photos") == 0
        assert Path("out/summary.json").read_bytes() == before
    assert judging("--reference", "photos", "--save-reference", "stats.npz") == 0
    assert Path("stats.npz").is_file()


def test_a_model_that_is_added_is_looked_at_alone(judging: Judging, monkeypatch: pytest.MonkeyPatch) -> None:
    assert judging("--reference", "photos") == 0
    write_images(Path("images/new"), 80)
    seen = []

    def counted(path: Path, fix: str) -> Image.Image:
        seen.append(path)
        return Image.open(path)

    monkeypatch.setattr("contrapose.evaluate.sets.reference.read_image", counted)
    images = ["--images", "base=images/base", "moved=images/moved", "new=images/new"]
    assert judging("--reference", "photos", *images) == 0
    assert {path.parts[1] for path in seen} == {"new"} and len(seen) == 12
    assert set(summary()["sets"]["differences"]) == {"moved", "new"}
    assert len(list(Path("out/features").iterdir())) == 4


def test_diversity_and_drift_beside_scores_change_no_score(judging: Judging) -> None:
    judges = ["--judges", "colourfulness"]
    assert judging(*judges, suite="scores", features=()) == 0
    assert judging(*judges, "--out", "looked", suite="scores") == 0
    plain, looked = summary(), summary("looked")
    assert plain["sets"] is None and looked["sets"]["extractor"] == "lab-pixels-8 1"
    assert looked["metrics"] == plain["metrics"] | {
        name: {"higher_is_better": None} for name in ("diversity", "vendi", "drift")
    }
    name = next(iter(plain["metrics"]))
    assert looked["comparisons"]["moved"][name] == plain["comparisons"]["moved"][name]
    assert looked["models"]["base"]["metrics"][name] == plain["models"]["base"]["metrics"][name]


def test_diversity_and_drift_by_hand(judging: Judging) -> None:
    """Of two images of a prompt, each is as far from the other; the base is where it is."""
    assert judging("--reference", "photos") == 0
    rows = {(row.model, row.metric, row.prompt_id, row.seed): row.value for row in read_rows(Path("out/rows.parquet"))}

    def vector(path: str) -> np.ndarray:
        from contrapose.evaluate.sets.extractors import PixelFeatures

        return PixelFeatures().load("cpu")([Image.open(path)]).features[0].astype(float)

    names = sorted({name for _, _, name, _ in rows})
    first, second = (vector(f"images/base/00003/samples/{seed:04d}.png") for seed in (0, 1))
    moved = vector("images/moved/00003/samples/0001.png")

    def apart(a: np.ndarray, b: np.ndarray) -> float:
        return float(1 - a @ b / np.sqrt(a @ a * (b @ b)))

    assert names[3].startswith("00003")
    for seed in (0, 1):
        assert rows["base", "diversity", names[3], seed] == pytest.approx(apart(first, second), rel=1e-5)
        assert rows["base", "drift", names[3], seed] == 0
    assert rows["moved", "drift", names[3], 1] == pytest.approx(apart(moved, second), rel=1e-5)
    assert rows["base", "vendi", names[3], 0] == rows["base", "vendi", names[3], 1] > 1


def test_one_image_a_prompt_has_drift_and_no_diversity(judging: Judging, capsys: Capture) -> None:
    for model in ("base", "moved"):
        for image in Path("images", model).glob("*/samples/0001.png"):
            image.unlink()
    assert judging("--reference", "photos") == 0
    assert list(summary()["metrics"]) == ["drift"]
    assert capsys.readouterr().err.count("diversity is left out, since 6 of 6 prompts have one image") == 1


@pytest.mark.parametrize(
    ("more", "naming"),
    [
        ([], "fid compares with a reference; name its folder or .npz with --reference"),
        (["--reference", "nowhere"], "nowhere: no such file"),
        (["--reference", "broken.npz"], "broken.npz: is not a set of features"),
        (["--reference", "empty"], "empty: holds no .png, .jpg or .webp images"),
        (["--reference", "photos", "--metrics", "is"], "is needs classes"),
        (["--reference", "photos", "--metrics", "cmmd"], "cmmd is of CLIP's unit vectors"),
        (["--reference", "photos", "--metrics", "fid", "fid"], "metrics fid fid: one is named twice"),
        (["--reference", "photos", "--metrics", "fidd"], "--metrics"),
        (["--reference", "photos", "--save-reference", "x.txt"], "name a file that ends in .npz"),
        (["--save-reference", "x.npz"], "there is no reference to save"),
        (["--reference", "photos", "--features", "inception"], "pt_inception-2015-12-05-6726825d.safetensors: no such"),
        (["--reference", "photos", "--features", "clip", "--features.model", "nowhere"], "nowhere"),
        (["--reference", "photos", "--features", "dino"], "--features dino"),
        (["--reference", "photos", "--features.side", "0"], "side"),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, list) else "",
)
def test_refused(judging: Judging, capsys: Capture, more: list[str], naming: str) -> None:
    Path("broken.npz").write_bytes(b"PK\x03\x04 broken")
    Path("empty").mkdir()
    refused(capsys, judging(*more), naming)
    assert not Path("out").exists()


def test_a_broken_photograph_is_no_image_to_sample_again(judging: Judging, capsys: Capture) -> None:
    photo = Path("photos/broken.jpg")
    tiny_vision.noise_image(1).save(photo)
    whole = photo.read_bytes()
    photo.write_bytes(whole[:200])
    refused(capsys, judging("--reference", "photos"), "broken.jpg: not a whole JPG image (")
    photo.write_bytes(whole)
    assert judging("--reference", "photos") == 0


def test_sets_of_other_images_or_by_other_features_do_not_compare(judging: Judging, capsys: Capture) -> None:
    assert judging("--reference", "photos", "--save-reference", "stats.npz", "--out", "first") == 0
    other = ["--reference", "stats.npz", "--features.side", "4"]
    capsys.readouterr()
    refused(capsys, judging(*other), "features are by lab-pixels-8 1, and by lab-pixels-4 1 the images'")
    refused(capsys, judging("--reference", "stats.npz", "--features.side", "4", "--out", "first"), "side")
    Path("images/moved/00002/samples/0001.png").unlink()
    refused(capsys, judging("--reference", "stats.npz"), "images/moved: 1 images that other models have are missing")
    assert not Path("out").exists()


def test_runs_of_one_method_are_one(judging: Judging, capsys: Capture) -> None:
    write_images(Path("images/again"), 70)
    images = ["--images", "base=images/base", "sft/0=images/moved", "sft/1=images/again"]
    assert judging("--metrics", "fid", "--reference", "photos", *images) == 0
    sets = summary()["sets"]
    runs = [sets["models"][run]["fid"]["value"] for run in ("sft/0", "sft/1")]
    method = sets["methods"]["sft"]
    assert method["metrics"]["fid"]["value"] == pytest.approx(np.mean(runs))
    gain = method["differences"]["fid"]
    assert gain["value"] == pytest.approx(np.mean(runs) - sets["models"]["base"]["fid"]["value"])
    assert gain["interval"]["high"] - gain["interval"]["low"] > abs(runs[0] - runs[1])  # two seeds tell little
    assert "(2 training seeds)" in capsys.readouterr().out


def test_published_mean_and_covariance(judging: Judging, capsys: Capture) -> None:
    """FID against `mu` and `sigma` is that against the images that they are of, and nothing else is made of them."""
    assert judging("--metrics", "fid", "--reference", "photos", "--save-reference", "own.npz", "--out", "first") == 0
    of_photos = moments(read_set(Path("own.npz")).features)
    np.savez("theirs.npz", mu=of_photos.mean, sigma=of_photos.covariance)
    capsys.readouterr()
    refused(capsys, judging("--reference", "theirs.npz"), "of which fid alone can be made")
    assert judging("--metrics", "fid", "--reference", "theirs.npz") == 0
    assert "does not say by which features it was made" in capsys.readouterr().err
    assert summary()["sets"]["models"] == summary("first")["sets"]["models"]
    np.savez("wide.npz", mu=np.zeros(5), sigma=np.eye(5))
    refused_too = judging("--metrics", "fid", "--reference", "wide.npz", "--out", "second")
    assert refused_too == 2 and "with a reference of 5" in capsys.readouterr().err
    np.savez("bad.npz", mu=np.zeros(5), sigma=np.eye(4))
    refused(
        capsys, judging("--metrics", "fid", "--reference", "bad.npz", "--out", "third"), "bad.npz: mu and sigma are"
    )


@pytest.mark.slow
def test_fid_kid_and_is_by_inception(judging: Judging, capsys: Capture) -> None:
    torch.manual_seed(3)
    save_file(Inception().state_dict(), "inception.safetensors")
    weights = [
        "--features",
        "inception",
        "--features.weights",
        "inception.safetensors",
        "--features.resizer",
        "pytorch",
    ]
    metrics = ["--metrics", "fid", "kid", "is"]
    assert judging(*metrics, "--reference", "photos", *weights, features=()) == 0
    sets = summary()["sets"]
    assert sets["extractor"].startswith("inception-pytorch ")
    assert sets["models"]["base"]["is"]["value"] >= 1 and sets["models"]["base"]["is"]["deviation"] >= 0
    assert "is by inception-pytorch" in capsys.readouterr().out
