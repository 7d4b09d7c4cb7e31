"""A sweep is carried on, judged once, and refused in one line where it cannot be made."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from training import with_lora

from contrapose.backbones.families.table import load_backbone
from contrapose.cli.main import main
from contrapose.evaluate.rows import read_rows, select
from contrapose.judges.colours import colourfulness
from contrapose.worlds.shapes.grammar import prompts

Told = Callable[..., str]


@pytest.fixture(scope="session")
def run(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An aligned run of `tiny_model`, with random adapters."""
    backbone = with_lora(load_backbone(tiny_model), 4, 4)
    torch.manual_seed(0)
    for name, value in backbone.denoiser.network.named_parameters():
        if "lora" in name:
            torch.nn.init.normal_(value, std=0.1)
    folder = tmp_path_factory.mktemp("runs") / "aligned"
    backbone.save(folder)
    return folder


@pytest.fixture(scope="session")
def shapes_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "shapes.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in prompts("dev", 1)))
    return path


@pytest.fixture
def command(tiny_model: Path, run: Path) -> Callable[..., list[str]]:
    def build(*more: object) -> list[str]:
        start = ["sweep", "--model", tiny_model, "--positive", run, "--steps", 2, "--num-images", 1]
        return [str(word) for word in (*start, *more)]

    return build


def _files(folder: Path) -> dict[str, tuple[int, bytes]]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): (p.stat().st_mtime_ns, p.read_bytes()) for p in files}


def test_scores_by_scale(command: Callable[..., list[str]], shapes_file: Path, tmp_path: Path) -> None:
    assert main(command("--prompts", shapes_file, "--scales", "2", "0", "--out", tmp_path / "out", "--label", "A")) == 0
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["sweep"].pop("counted").startswith("An object counts where")
    assert summary["sweep"].pop("called") == "" and summary["sweep"].pop("features") is None
    suite = {"name": "shapes", "autoencoder": ""}
    assert summary["sweep"] == {"label": "A", "scales": [0.0, 2.0], "judged": True, "suite": suite}
    assert list(summary["models"]) == ["w = 0", "w = 2"]
    assert "difference" in summary["comparisons"]["w = 2"]["correct"]
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "images.yaml", "inputs.yaml", "scale-0", "scale-2", "judged", "rows.parquet", "summary.json", "judged.yaml",
        "page.html",
    }  # fmt: skip


def test_any_suite_judges(
    command: Callable[..., list[str]],
    prompts_file: Path,
    tmp_path: Path,
    told: Told,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    line = command("--prompts", prompts_file, "--scales", "0", "2", "--out", out, "--suite", "scores")
    assert "needs a judge" in told(*line)
    assert not out.exists()
    assert main([*line, "--judges", "colourfulness"]) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert summary["sweep"]["suite"] == {"name": "scores", "judges": [{"name": "colourfulness"}]}
    for scale in (0, 2):
        image = next((out / f"scale-{scale}/00000/samples").glob("*.png"))
        row = next(iter(select(read_rows(out / "rows.parquet"), f"w = {scale}", "colourfulness").values()))
        assert row.value == pytest.approx(colourfulness(Image.open(image)))
    assert "olourfulness by strength of guidance" in (out / "page.html").read_text()
    capsys.readouterr()
    assert main([*line, "--judges", "colourfulness"]) == 0
    assert "finished already" in capsys.readouterr().out
    assert main(command("--prompts", prompts_file, "--scales", "0", "2", "--out", out, "--suite", "none")) == 0
    assert "finished already" not in capsys.readouterr().out
    assert "models" not in json.loads((out / "summary.json").read_text())


def test_diversity_and_drift_along_the_dial(
    command: Callable[..., list[str]],
    prompts_file: Path,
    tmp_path: Path,
    told: Told,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    line = command("--prompts", prompts_file, "--out", out, "--features", "pixels", "--num-images", 2, "--scales")
    assert "add 0 to --scales" in told(*line, "1", "2")
    assert not out.exists()
    assert main([*line, "0", "2"]) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert list(summary["metrics"]) == ["diversity", "vendi", "drift"]
    drift = {name: of["metrics"]["drift"]["overall"]["value"] for name, of in summary["models"].items()}
    assert drift["w = 0"] == 0 < drift["w = 2"]
    page = (out / "page.html").read_text()
    assert "rift by strength of guidance" in page and "How it draws, not how well." in page
    assert "is best with" not in page
    capsys.readouterr()
    assert main([*line, "0", "2"]) == 0
    assert "finished already" in capsys.readouterr().out
    assert main([*line, "0", "2", "--suite", "scores", "--judges", "colourfulness"]) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert list(summary["metrics"]) == ["colourfulness", "diversity", "vendi", "drift"]


def test_suites_that_no_sweep_has(
    command: Callable[..., list[str]], shapes_file: Path, tmp_path: Path, told: Told
) -> None:
    line = command("--prompts", shapes_file, "--out", tmp_path / "out", "--suite")
    assert "--suite set: not known" in told(*line, "set")
    assert "draws no ceiling" in told(*line, "shapes", "--autoencoder", "x")
    assert "images that are there already" in told(*line, "geneval", "--detections", "base=x")
    assert "--suite.precision" in told(*line, "questions", "--suite.precision", "fp64")
    assert not (tmp_path / "out").exists()


def test_no_guidance_is_the_base_and_strength_one_the_run(
    command: Callable[..., list[str]], tiny_model: Path, run: Path, prompts_file: Path, tmp_path: Path
) -> None:
    assert main(command("--prompts", prompts_file, "--scales", "0", "1", "--out", tmp_path / "out")) == 0
    shared = ["--model", tiny_model, "--prompts", prompts_file, "--steps", 2, "--num-images", 1]
    for scale, more in ((0, []), (1, ["--adapter", run])):
        alone = tmp_path / f"alone-{scale}"
        assert main([str(word) for word in ("sample", *shared, *more, "--out", alone)]) == 0
        for path in sorted(alone.glob("*/samples/*.png")):
            ours = tmp_path / f"out/scale-{scale}" / path.relative_to(alone)
            difference = np.asarray(Image.open(ours), dtype=int) - np.asarray(Image.open(path), dtype=int)
            assert abs(difference).max() <= scale  # rounding, where the adapter was merged


def test_again_does_nothing_and_carries_on(
    command: Callable[..., list[str]], shapes_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out = tmp_path / "out"
    start = command("--prompts", shapes_file, "--out", out)
    line = [*start, "--scales", "0", "1"]
    assert main(line) == 0
    before, lost = _files(out), out / "scale-1/00002/samples/0000.png"
    lost.unlink()
    with monkeypatch.context() as patched:
        patched.setattr("contrapose.evaluate.kept.judged", None)  # it was already
        capsys.readouterr()
        assert main(line) == 0
    assert "finished already" in capsys.readouterr().out
    after = _files(out)
    assert {path: data for path, (_, data) in after.items()} == {path: data for path, (_, data) in before.items()}
    drawn = [path for path in after if path.endswith(".png") and after[path][0] != before[path][0]]
    assert str(lost.relative_to(out)) in drawn
    assert all("scale-1" in path for path in drawn)
    assert main([*line, "--batch-size", "8", "--channels-last"]) == 0  # how images are drawn, not which
    kept = {path.name for path in (out / "judged").iterdir()}
    assert main([*start, "--scales", "0", "1", "4"]) == 0  # more strengths may come later
    assert kept < {path.name for path in (out / "judged").iterdir()}, "those before are not judged again"
    assert json.loads((out / "summary.json").read_text())["sweep"]["scales"] == [0.0, 1.0, 4.0]


def test_parts_are_the_sweep_of_one_process(
    command: Callable[..., list[str]], shapes_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each draws its images of every strength, and the last one judges all."""
    sharing = ["--batch-size", "2", "--features", "pixels"]
    line = command("--prompts", shapes_file, "--scales", "0", "1", *sharing, "--label", "A", "--out")
    assert main([*line, str(tmp_path / "one")]) == 0
    two = tmp_path / "two"
    capsys.readouterr()
    assert main([*line, str(two), "--part", "1/2"]) == 0
    assert "images are left to other parts" in capsys.readouterr().out
    assert not (two / "judged").exists() and not (two / "scale-0/contact.html").exists()
    assert main([*line, str(two), "--part", "2/2"]) == 0
    assert _contents(two) == _contents(tmp_path / "one")


def _contents(folder: Path) -> dict[str, bytes]:
    """Without the page, which tells the folder's name."""
    return {path: data for path, (_, data) in _files(folder).items() if path != "page.html"}


def test_what_lies_at_a_name_is_claimed(
    command: Callable[..., list[str]], run: Path, shapes_file: Path, tmp_path: Path, told: Told
) -> None:
    """No score of other images, of another run or of other prompts is kept."""
    own, mine, out = tmp_path / "run", tmp_path / "prompts.jsonl", tmp_path / "out"
    shutil.copytree(run, own)
    shutil.copy(shapes_file, mine)
    line = command("--prompts", mine, "--positive", own, "--scales", "0", "1", "--out", out)
    assert main(line) == 0
    before = (out / "summary.json").read_bytes()
    written = json.loads(before)
    del written["format"]
    (out / "summary.json").write_text(json.dumps(written))
    assert main(line) == 0  # a summary of an earlier format is made anew
    assert (out / "summary.json").read_bytes() == before
    shutil.rmtree(out / "scale-1")
    assert main(line) == 0  # the same images again
    assert (out / "summary.json").read_bytes() == before
    image = out / "scale-1/00000/samples/0000.png"  # another image under the same name
    Image.new("RGB", Image.open(image).size, (255, 0, 0)).save(image)
    old = select(read_rows(out / "rows.parquet"), "w = 1", "roughness")
    assert main(line) == 0
    new = select(read_rows(out / "rows.parquet"), "w = 1", "roughness")
    assert [key for key in old if old[key].value != new[key].value] == [next(iter(old))]

    weights = next(own.glob("*.safetensors"))
    tensors = load_file(weights)
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, weights, _metadata(weights))
    shutil.rmtree(out / "scale-1")
    assert "another content of guiding.positive" in told(*line)
    shutil.copy(run / weights.name, weights)
    mine.write_text("".join(json.dumps(line) + "\n" for line in reversed(prompts("dev", 1))))
    assert "another content of prompts" in told(*line)
    assert not (out / "scale-1").exists()


def _metadata(weights: Path) -> dict[str, str]:
    with safe_open(weights, "pt") as opened:
        return opened.metadata()


def test_other_prompts_are_not_judged(
    command: Callable[..., list[str]], prompts_file: Path, tmp_path: Path, told: Told
) -> None:
    assert main(command("--prompts", prompts_file, "--scales", "0", "1", "--out", tmp_path / "out")) == 0
    assert list(json.loads((tmp_path / "out/summary.json").read_text())) == ["sweep"]
    asked = command("--prompts", prompts_file, "--suite", "shapes", "--out", tmp_path / "other")
    assert "not of the shapes world" in told(*asked)
    assert not (tmp_path / "other").exists()
    assert "other settings (steps differ)" in told(
        *command("--prompts", prompts_file, "--scales", "0", "1", "--out", tmp_path / "out", "--steps", 3)
    )


def test_compared(command: Callable[..., list[str]], shapes_file: Path, tmp_path: Path, told: Told) -> None:
    for name in "ab":
        assert main(command("--prompts", shapes_file, "--scales", "0", "1", "--out", tmp_path / name)) == 0
    both = [str(tmp_path / name) for name in "ab"]
    assert main(["sweep", "--compare", *both, "--out", str(tmp_path / "both")]) == 0
    lines = json.loads((tmp_path / "both/summary.json").read_text())["lines"]["correct"]
    assert [line["label"] for line in lines] == ["a", "b"]
    assert (tmp_path / "both/page.html").is_file()
    for folders in ([], both[:1], [both[0], both[0]], [both[0], f"{both[0]}/../a"]):
        assert "--compare" in told("sweep", "--compare", *folders, "--out", str(tmp_path / "none"))
    assert not (tmp_path / "none").exists()


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Told:
    """Run a command line that must fail, and return the one line it told."""

    def run(*arguments: str) -> str:
        capsys.readouterr()
        assert main(list(arguments)) == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("contrapose: ")]
        assert len(lines) == 1
        return lines[0]

    return run


@pytest.mark.parametrize(
    ("scales", "naming"),
    [
        ("0,1", "--scales"),
        ("", "name at least one strength"),
        ("0;1", "--scales"),
        ("0 nan", "scales nan: a number from -1000 up to 1000"),
        ("0 inf", "scales inf: a number from -1000 up to 1000"),
        ("0 1000000", "a number from -1000 up to 1000"),
        ("0 1 1.0", "named twice"),
        ("0 -0", "named twice"),
    ],
)
def test_bad_scales(
    command: Callable[..., list[str]], prompts_file: Path, tmp_path: Path, told: Told, scales: str, naming: str
) -> None:
    assert naming in told(*command("--prompts", prompts_file, "--scales", *scales.split(), "--out", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_bad_settings(
    command: Callable[..., list[str]], tiny_model: Path, prompts_file: Path, tmp_path: Path, told: Told
) -> None:
    asked = ["--prompts", prompts_file, "--out", tmp_path / "out"]
    assert "--scale is now --scales" in told(*command(*asked, "--scale", "2"))
    bare = [str(word) for word in ("sweep", "--model", tiny_model, *asked)]
    assert "name one with --positive" in told(*bare)
    assert "no such run" in told(*bare, "--positive", str(tmp_path / "nothing"))
    assert "holds no finished sweep" in told("sweep", "--compare", str(tmp_path), "--out", str(tmp_path / "both"))
    assert not (tmp_path / "out").exists()
