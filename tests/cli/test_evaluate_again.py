"""An evaluation is of the images, the base and the autoencoder that it says, and is made once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from contrapose.cli.main import main
from contrapose.worlds.shapes import blueprint, suite
from contrapose.worlds.shapes.grammar import prompts

LINES = prompts("dev", 1)
Judging = Callable[..., int]


def write_images(folder: Path, lines: list[dict], seed: int = 0, wrong: int = 0) -> Path:
    """Renders that are right for their prompts, but for the first `wrong`, which are black."""
    for number, image_seed, image in suite.ceiling_images(lines, [seed]):
        samples = folder / f"{number:05d}" / "samples"
        samples.mkdir(parents=True)
        (samples.parent / "metadata.jsonl").write_text(json.dumps(lines[number]) + "\n", encoding="utf-8")
        Image.fromarray(image * (number >= wrong)).save(samples / f"{image_seed:04d}.png")
    return folder


@pytest.fixture
def images(tmp_path: Path) -> Path:
    write_images(tmp_path / "images/base", LINES, wrong=3)
    write_images(tmp_path / "images/better", LINES)
    return tmp_path / "images"


@pytest.fixture
def judging(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Judging:
    """Judge the images with these flags more; gives the exit code."""
    monkeypatch.chdir(tmp_path)

    def run(*more: str, models: tuple[str, ...] = ("base", "better")) -> int:
        given = [word for name in models for word in ("--images", f"{name}=images/{name}")]
        return main(["evaluate", *given, "--replicates", "50", "--out", "out", *more])

    return run


def correct(out: Path) -> dict[str, float]:
    models = json.loads((out / "summary.json").read_text())["models"]
    return {name: scores["metrics"]["correct"]["overall"]["value"] for name, scores in models.items()}


def files(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def refused(capsys: pytest.CaptureFixture[str], code: int, naming: str) -> None:
    lines = [line for line in capsys.readouterr().err.splitlines() if "judging" not in line]  # the bar
    assert code == 2
    assert len(lines) == 1
    assert naming in lines[0]


def test_again_says_so_and_judges_nothing(
    judging: Judging, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert judging() == 0
    scores = capsys.readouterr().out
    assert correct(tmp_path / "out")["base"] == 0.5
    assert correct(tmp_path / "out")["better"] == 1
    before = files(tmp_path / "out")
    monkeypatch.setattr("contrapose.cli.evaluate.evaluate_images", None)
    assert judging() == 0
    told = capsys.readouterr().out
    assert "judged already" in told
    assert told.endswith(scores)
    assert files(tmp_path / "out") == before
    # the same content elsewhere is the same
    shutil.move(tmp_path / "images", tmp_path / "moved")
    (tmp_path / "images").symlink_to(tmp_path / "moved")
    assert judging() == 0


def test_other_images_are_refused(
    judging: Judging, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert judging() == 0
    shutil.rmtree(images / "better")
    write_images(images / "better", LINES, wrong=1)
    before = files(tmp_path / "out")
    capsys.readouterr()
    refused(capsys, judging(), "another content of images.better")
    shutil.rmtree(images / "base")
    write_images(images / "base", LINES[::-1])
    refused(capsys, judging(models=("base",)), "another content of images.base")
    assert files(tmp_path / "out") == before


def test_another_autoencoder_or_base_is_refused(
    judging: Judging, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert judging() == 0
    capsys.readouterr()
    refused(capsys, judging("--base", "better"), "(base differ)")
    refused(capsys, judging("--replicates", "60"), "(replicates differ)")
    other = shutil.copytree(blueprint.shipped_model(), tmp_path / "model")
    assert judging("--autoencoder", str(other)) == 0  # the same content
    config = other / "vae/config.json"
    config.write_text(config.read_text() + "\n")
    capsys.readouterr()
    refused(capsys, judging("--autoencoder", str(other)), "another content of autoencoder")


def test_models_may_be_added_and_all_are_judged_again(judging: Judging, images: Path, tmp_path: Path) -> None:
    assert judging(models=("base",)) == 0
    assert judging() == 0
    assert set(correct(tmp_path / "out")) == {"base", "better", "floor", "ceiling"}
    assert main(["report", "--evidence", "out", "--out", "page.html"]) == 0
    assert judging("--title", "Another") == 0
    assert main(["report", "--evidence", "out", "--out", "page.html"]) == 0
    assert "Another" in (tmp_path / "page.html").read_text()


def test_images_that_cannot_be_judged_do_not_refuse_their_mend(
    judging: Judging, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken, extra = images / "better/00001/samples/0000.png", images / "better/00002/samples/0007.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:60])
    refused(capsys, judging(), "0000.png: not a whole PNG image")
    broken.write_bytes(whole)
    shutil.copy(broken, extra)
    refused(capsys, judging(), "cannot be compared")
    assert not (tmp_path / "out").exists()
    extra.unlink()
    assert judging() == 0


@pytest.mark.parametrize("kept", [(), ("rows.parquet",), ("summary.json",)])
def test_what_a_kill_left_is_judged_again(judging: Judging, tmp_path: Path, kept: tuple[str, ...]) -> None:
    assert judging() == 0
    before = (tmp_path / "out/summary.json").read_bytes()
    for name in {"rows.parquet", "summary.json"} - set(kept):
        (tmp_path / "out" / name).unlink()
    assert judging() == 0
    assert (tmp_path / "out/summary.json").read_bytes() == before


def test_prompts_of_another_world(
    judging: Judging, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (images / "base/00000/metadata.jsonl").write_text('{"prompt": "a dog", "include": [{"class": "dog", "count": 1}]}')
    refused(capsys, judging(models=("base",)), "no other is judged from the command line today")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "naming"),
    [
        (["--replicates", "0"], "replicates"),
        (["--replicates", "-1"], "replicates"),
        (["--autoencoder", "nowhere"], "nowhere"),
        (["--base", "x"], "--base x"),
    ],
)
def test_bad_settings_leave_no_folder(
    judging: Judging, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], naming: str
) -> None:
    refused(capsys, judging(*more), naming)
    assert not (tmp_path / "out").exists()


def test_the_ceiling_is_right(judging: Judging, tmp_path: Path) -> None:
    assert judging(models=("base",)) == 0
    drawn = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "out/ceiling").glob("*/samples/0000.png"))]
    assert len(drawn) == len(LINES)
    for (_, _, render), image in zip(suite.ceiling_images(LINES, [0]), drawn, strict=True):
        assert np.abs(render.astype(float) - image).mean() < 20
