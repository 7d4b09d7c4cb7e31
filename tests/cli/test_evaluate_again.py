"""An evaluation is of the images, the base and the autoencoder that it says, and is made once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny_vision
import yaml
from judging import as_prompts
from PIL import Image

from contrapose.cli.main import main
from contrapose.evaluate.rows import read_rows, write_rows
from contrapose.judges.colours import colourfulness
from contrapose.worlds.shapes import suite
from contrapose.worlds.shapes.grammar import prompts
from contrapose.worlds.shapes.shipped import shipped_model

LINES = prompts("dev", 1)
Judging = Callable[..., int]


def write_images(folder: Path, lines: list[dict], seed: int = 0, wrong: int = 0) -> Path:
    """Renders that are right for their prompts, but for the first `wrong`, which are black."""
    for number, image_seed, image in suite.ceiling_images(as_prompts(lines), [seed]):
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
        given = ["--images", *(f"{name}=images/{name}" for name in models)]
        few = [] if "none" in more else ["--replicates", "50"]  # where there are no numbers they are refused
        return main(["evaluate", *given, *few, "--out", "out", *more])

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
    monkeypatch.setattr("contrapose.evaluate.kept.judged", None)
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
    other = shutil.copytree(shipped_model(), tmp_path / "model")
    assert judging("--autoencoder", str(other)) == 0  # the same content
    config = other / "vae/config.json"
    config.write_text(config.read_text() + "\n")
    capsys.readouterr()
    refused(capsys, judging("--autoencoder", str(other)), "another content of suite.autoencoder")


def test_the_folder_of_another_command_is_no_place_for_evidence(
    judging: Judging, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "images.yaml").write_text("steps: 3\n")
    (out / "inputs.yaml").write_text("prompts: abc\n")
    before = files(out)
    refused(capsys, judging(), "the result of another command (images.yaml)")
    assert files(out) == before


def test_models_may_be_added(judging: Judging, images: Path, tmp_path: Path) -> None:
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
    refused(capsys, judging(), "base: 1 images that other models have are missing, the first of seed 7")
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


def test_a_summary_of_an_earlier_format_is_made_anew_of_its_rows(
    judging: Judging, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert judging() == 0
    path = tmp_path / "out/summary.json"
    before = path.read_bytes()
    written = json.loads(before)
    path.write_text(json.dumps({key: written[key] for key in written if key not in ("format", "methods", "notes")}))
    capsys.readouterr()
    refused(capsys, main(["report", "--evidence", "out", "--out", "page.html"]), "run the command that made it again")
    monkeypatch.setattr("contrapose.evaluate.kept.judged", None)
    assert judging() == 0
    assert path.read_bytes() == before


def test_runs_of_a_method_are_one_on_the_terminal_and_on_the_page(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_images(images / "other", LINES, wrong=1)
    arguments = ["--images", "base=images/base", "ddspo/0=images/better", "ddspo/1=images/other"]
    assert main(["evaluate", *arguments, "--replicates", "50", "--out", "out"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("ddspo "))
    assert "0.917 " in line and "+0.417 " in line and "(2 training seeds)" in line
    assert main(["report", "--evidence", "out", "--examples", "1", "--out", "page.html"]) == 0
    page = (tmp_path / "page.html").read_text()
    assert "mean of 2 training seeds (+50.0, +33.3)" in page
    assert "ddspo/0=images/better" in page
    assert "One training seed each" not in page


def test_a_hacked_judge_is_told_and_what_was_trained_for_may_be_said_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("base", "better"):
        write_images(tmp_path / "images" / name, prompts("dev", 3))
    arguments = ["evaluate", "--images", "base=images/base", "better=images/better", "--replicates", "400"]
    arguments += ["--out", "out"]
    refused(capsys, main([*arguments, "--trained-for", "pickscore"]), "--trained-for pickscore: is not judged here")
    assert not (tmp_path / "out").exists()
    assert main(arguments) == 0
    rows = tmp_path / "out/rows.parquet"
    written = [row._replace(value=float(row.model == "better")) for row in read_rows(rows)]
    write_rows(written, rows)  # larger by every metric, and so worse by the one of which less is better
    (tmp_path / "out/summary.json").unlink()
    monkeypatch.setattr("contrapose.evaluate.kept.judged", None)
    assert main([*arguments, "--trained-for", "correct"]) == 0
    assert "Reward hacking? By correct, which it was trained for, better is" in capsys.readouterr().out
    assert main(["report", "--evidence", "out", "--examples", "0", "--out", "page.html"]) == 0
    page = (tmp_path / "page.html").read_text()
    assert "Reward hacking?" in page and "--trained-for correct" in page
    assert main(arguments) == 0
    assert "Reward hacking?" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("names", "naming"),
    [(("base", "a/b"), "METHOD/SEED"), (("base", "ddspo", "ddspo/0"), "a model's name already"),
     (("base", "floor/0"), "is taken"), (("base", "ddspo/00"), "METHOD/SEED")],
)  # fmt: skip
def test_names_that_would_be_misread(
    names: tuple[str, ...], naming: str, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [f"{name}={images / 'base'}" for name in names]
    refused(capsys, main(["evaluate", "--images", *folders, "--out", str(tmp_path / "out")]), naming)
    assert not (tmp_path / "out").exists()


def test_runs_of_one_prompt_are_refused_before_they_are_judged(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("contrapose.evaluate.kept.judged", None)
    for name in ("base", "better"):
        for folder in list((images / name).iterdir())[1:]:
            shutil.rmtree(folder)
    folders = [f"base={images / 'base'}", *(f"ddspo/{seed}={images / 'better'}" for seed in range(2))]
    code = main(["evaluate", "--suite", "scores", "--judges", "colourfulness", "--images", *folders, "--out", "out"])
    refused(capsys, code, "2 prompts")


def test_prompts_of_another_world(
    judging: Judging, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (images / "base/00000/metadata.jsonl").write_text('{"prompt": "a dog", "include": [{"class": "dog", "count": 1}]}')
    refused(capsys, judging(models=("base",)), "judged by '--suite scores'")
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
    for (_, _, render), image in zip(suite.ceiling_images(as_prompts(LINES), [0]), drawn, strict=True):
        assert np.abs(render.astype(float) - image).mean() < 20


def scored(out: Path, metric: str) -> dict[str, float]:
    models = json.loads((out / "summary.json").read_text())["models"]
    return {name: scores["metrics"][metric]["overall"]["value"] for name, scores in models.items()}


def test_judges_score_images_of_any_prompts(
    judging: Judging, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a floor and a ceiling, which scores have not; the report shows them and how they came."""
    for number, path in enumerate(sorted(images.glob("*/*/metadata.jsonl"))):
        path.write_text(json.dumps({"prompt": f"a photograph of {number % len(LINES)} dogs"}) + "\n", encoding="utf-8")
    clip = tiny_vision.save_clip(tmp_path / "clip")
    flags = ["--suite", "scores", "--judges", "colourfulness", "clipscore", "--judges.1.model", str(clip)]
    assert judging(*flags) == 0
    assert "against base" in capsys.readouterr().out
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert list(summary["models"]) == ["base", "better"]
    assert list(summary["metrics"]) == ["colourfulness", "clipscore"]
    pixels = [Image.open(path) for path in sorted((images / "better").glob("*/samples/*.png"))]
    expected = np.mean([colourfulness(image) for image in pixels])
    assert scored(tmp_path / "out", "colourfulness")["better"] == pytest.approx(expected)
    assert judging(*flags) == 0
    assert "judged already" in capsys.readouterr().out
    assert judging(*flags, "--judges.1.batch-size", "2") == 0, "which decides no score"
    assert "judged already" in capsys.readouterr().out
    tiny_vision.save_clip(tmp_path / "clip", seed=1)
    capsys.readouterr()  # the bar of what has just been saved
    refused(capsys, judging(*flags), "another content of judge.jury")
    assert main(["report", "--evidence", "out", "--out", "page.html"]) == 0
    page = (tmp_path / "page.html").read_text()
    assert "--suite scores --judges colourfulness clipscore --judges.1.model" in page
    assert "floor" not in page


def test_images_are_shown_without_a_judge(
    judging: Judging, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in images.glob("*/*/metadata.jsonl"):
        path.write_text(json.dumps({"prompt": "a dog"}) + "\n", encoding="utf-8")
    (images / "base").rename(images / "sd")
    assert judging("--suite", "none", models=("sd", "better")) == 0
    assert "nothing was judged" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "out").glob("[!.]*")] == ["evidence.yaml"]
    assert main(["report", "--evidence", "out", "--out", "page.html"]) == 0
    page = (tmp_path / "page.html").read_text()
    assert page.count("<img ") == 2 * len(LINES)
    assert "contrapose evaluate --suite none --images sd=images/sd better=images/better --title out --out out" in page
    named = ["--images", "sd=images/sd", "better=images/better"]
    assert main(["report", *named, "--out", "other.html"]) == 0
    assert (tmp_path / "other.html").read_text().count("<img ") == 2 * len(LINES)
    capsys.readouterr()
    refused(capsys, judging("--suite", "none", "--features", "pixels", models=("sd", "better")), "leave --features")
    shutil.rmtree(images / "better/00003")
    refused(capsys, judging("--suite", "none", models=("sd", "better")), "1 images that other models have are missing")


@pytest.mark.parametrize(
    ("flags", "naming"),
    [
        (["--suite", "nothing"], "shapes, geneval, compbench, questions, scores"),
        (["--suite", "scores"], "needs a judge"),
        (["--suite", "scores", "--judges", "nobody"], "pickscore, "),
        (["--suite", "scores", "--judges", "colourfulness", "colourfulness"], "two of them give colourfulness"),
    ],
)
def test_suites_and_judges_that_are_none(
    judging: Judging, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], naming: str
) -> None:
    refused(capsys, judging(*flags), naming)
    assert not (tmp_path / "out").exists()


def test_a_report_of_shapes_says_what_the_detector_counts(judging: Judging, tmp_path: Path) -> None:
    assert judging() == 0
    path = tmp_path / "out/evidence.yaml"
    values = yaml.safe_load(path.read_text())
    assert values["counted"] == suite.Shapes.counted
    path.write_text(yaml.safe_dump(values | {"counted": ""}))  # as before it was told, and judged no less
    assert judging() == 0
    assert yaml.safe_load(path.read_text()) == values


def test_evidence_of_an_earlier_version_is_told(
    judging: Judging, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert judging() == 0
    path = tmp_path / "out/evidence.yaml"
    values = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(values | {"suite": "shapes"}))
    capsys.readouterr()
    refused(capsys, judging(), "delete its folder and evaluate again")
    refused(capsys, main(["report", "--evidence", "out", "--out", "page.html"]), "delete its folder and evaluate again")
