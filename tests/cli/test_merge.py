"""`contrapose merge`: two runs in, adapters or a pipeline out that `sample` takes, and one line for bad input."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import aligned
import pytest
import yaml

from contrapose.backbones.families.table import load_backbone
from contrapose.cli.main import main

Told = Callable[..., str]


@pytest.fixture(scope="session")
def runs(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two runs of adapters and one that was trained in full."""
    plain, folder = load_backbone(tiny_model), tmp_path_factory.mktemp("runs")
    kinds = {"win": "lora", "lose": "lora", "whole": "full"}
    return {name: aligned.write_run(plain, kind, i, folder / name) for i, (name, kind) in enumerate(kinds.items())}


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Told:
    """Merge, which must fail, and return the one line that is told."""

    def merge(*arguments: object) -> str:
        assert main(["merge", *map(str, arguments)]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1, lines
        return lines[0]

    return merge


def _merged(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    assert main(["merge", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def _sample(out: Path, prompts: Path, *model: object) -> bytes:
    options = ["--prompts", prompts, "--out", out, "--steps", 1, "--num-images", 1, "--device", "cpu"]
    assert main([str(argument) for argument in ("sample", *model, *options)]) == 0
    [image] = out.rglob("*.png")
    return image.read_bytes()


def test_what_is_merged_can_be_sampled(
    tiny_model: Path, runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Adapters on the base, a whole pipeline, and runs that were trained in full."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red circle\n")
    base = _sample(tmp_path / "base", prompts, "--model", tiny_model)
    both = ["--model", tiny_model, "--positive", runs["win"], "--negative", runs["lose"], "--scale", 0.8]
    line = _merged(capsys, *both, "--out", tmp_path / "adapters")
    assert "adapters of rank 8, exact, to be given as --adapter" in line
    adapted = _sample(tmp_path / "one", prompts, "--model", tiny_model, "--adapter", tmp_path / "adapters")
    assert "a whole pipeline" in _merged(capsys, *both, "--full", "--out", tmp_path / "pipeline")
    _sample(tmp_path / "two", prompts, "--model", tmp_path / "pipeline")
    whole = ["--model", tiny_model, "--positive", runs["whole"], "--out", tmp_path / "full"]
    assert "to be given as --model" in _merged(capsys, *whole)
    full = _sample(tmp_path / "three", prompts, "--model", tmp_path / "full")
    assert len({base, adapted, full}) == 3


def test_rank(tiny_model: Path, runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    both = ["--model", tiny_model, "--positive", runs["win"], "--negative", runs["lose"]]
    line = _merged(capsys, *both, "--rank", 3, "--out", out)
    note = yaml.safe_load((out / "merge.yaml").read_text())
    assert note["rank"] == 3
    assert 0.5 < note["kept"] < 1
    assert f"rank 3, {100 * note['kept']:.2f} % of the squared norm kept, to be given as --adapter" in line


def test_wrong_arguments(tiny_model: Path, runs: dict[str, Path], tmp_path: Path, told: Told) -> None:
    out = tmp_path / "out"
    one = ["--model", tiny_model, "--positive", runs["win"], "--out", out]
    assert "scale nan" in told(*one, "--scale", "nan")
    assert "scale 1000000.0" in told(*one, "--scale", "1000000")
    assert "nothing to merge" in told(*one, "--negative", runs["win"])
    assert "the merge has rank 4" in told(*one, "--rank", 5)
    assert "trained in full and has none" in told(*one, "--negative", runs["whole"], "--rank", 2)
    assert "no such run" in told(*one, "--negative", tmp_path / "none")
    assert not out.exists()
    out.mkdir()
    (out / "mine").write_text("precious")
    assert "is there already" in told(*one)
    assert [path.name for path in out.iterdir()] == ["mine"]


@pytest.mark.parametrize("more", [[], ["--full"]], ids=["adapters", "whole"])
def test_the_same_merge_again_is_done_already(
    tiny_model: Path,
    runs: dict[str, Path],
    tmp_path: Path,
    told: Told,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
) -> None:
    run = shutil.copytree(runs["win"], tmp_path / "run")
    one = ["--model", tiny_model, "--positive", run, "--out", tmp_path / "out", *more]
    first = _merged(capsys, *one)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    assert _merged(capsys, *one) == first.replace("\n", " (was merged already)\n")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before
    assert "other settings or other runs" in told(*one, "--scale", "0.5")
    shutil.rmtree(run)
    shutil.copytree(runs["lose"], run)
    assert "other settings or other runs" in told(*one)
    shutil.rmtree(run)
    shutil.copytree(runs["win"], run)
    weights = next((tmp_path / "out").rglob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert "has changed since it was merged" in told(*one)
