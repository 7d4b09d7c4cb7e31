"""Real photographs as a user has them: a folder, pairs of every spoiling kind, a check, and a step of training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from PIL import Image

from contrapose.cli.main import main
from contrapose.photographs.spoil import SPOILERS

QUICK = ["--steps", "2", "--batch-size", "3", "--device", "cpu"]


def _run(*arguments: object) -> None:
    assert main([str(a) for a in arguments]) == 0


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("real") / "photos"
    _run("shapes", "photos", "--out", folder, "--num-photos", 6, "--seed", 1)
    return folder


def test_photographs_are_written_once(photos: Path) -> None:
    assert len(list(photos.glob("*.png"))) == len(list(photos.glob("*.txt"))) == 6
    before = {path: path.read_bytes() for path in photos.iterdir()}
    _run("shapes", "photos", "--out", photos, "--num-photos", 6, "--seed", 1)
    assert {path: path.read_bytes() for path in photos.iterdir()} == before
    assert main(["shapes", "photos", "--out", str(photos), "--num-photos", "7", "--seed", "1"]) == 2


@pytest.mark.parametrize("kind", SPOILERS)
def test_every_spoiling_kind_to_a_step_of_training(
    photos: Path, tiny_model: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs, run = tmp_path / "pairs", tmp_path / "run"
    _run("pairs", "real", "--model", tiny_model, "--photos", photos, "--spoil", kind, "--out", pairs, *QUICK)
    assert f"{pairs}: 6 pairs" in capsys.readouterr().out
    _run("pairs", "check", pairs)
    assert "6 pairs of 6 prompts in 1 shards" in capsys.readouterr().out
    for path in (pairs / "images").glob("*.winner.png"):
        winner, loser = (Image.open(path.with_suffix("").with_suffix(f".{side}.png")) for side in ("winner", "loser"))
        assert winner.size == loser.size == (16, 16) and winner.tobytes() != loser.tobytes()
    small = ["--train-steps", 1, "--batch-size", 2, "--micro-batch", 2, "--holdout", 2]
    _run("align", "diffusion-dpo", "--model", tiny_model, "--pairs", pairs, "--out", run, *small)
    assert json.loads((run / "finished.json").read_text())["steps"] == 1


def test_a_settings_file_is_the_whole_run(photos: Path, tiny_model: Path, tmp_path: Path) -> None:
    chosen = ["--spoil", "degrade", "--filters", "colourfulness", "size", "--filters.1.max-aspect", "2"]
    _run("pairs", "real", *chosen, "--model", tiny_model, "--photos", photos, "--out", tmp_path / "a", *QUICK)
    _run("pairs", "real", tmp_path / "a/real.yaml", "--out", tmp_path / "b", "--device", "cpu")
    for name in ("real.yaml", "pairs.yaml", "skipped.jsonl", "shard-00000.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    settings = yaml.safe_load((tmp_path / "a/real.yaml").read_text())
    assert [some["name"] for some in settings["filters"]] == ["colourfulness", "size"]
    assert settings["filters"][1]["max_aspect"] == 2.0
    stages = yaml.safe_load((tmp_path / "a/pairs.yaml").read_text())["stages"]
    assert [stage["stage"] for stage in stages] == ["photos", "colourfulness", "size", "losers"]
    assert stages[0] == {"stage": "photos", "before": 6, "after": 6} and 0 < stages[1]["after"] < 6


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--spoil", "blur"], "--spoil blur: not known (choose from inpaint"),
        (["--filters", "size", "pretty"], "--filters pretty: not known (choose from size"),
        (["--filters", "top-k"], "pickscore"),
        (["--captioner", "nowhere/nothing"], "captions"),
        (["--photos", "nowhere"], "nowhere: no such file or folder"),
    ],
)
def test_bad_input_is_one_line(
    photos: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], told: str
) -> None:
    where = ["--model", tiny_model, "--photos", photos, "--out", tmp_path / "out", *options]
    assert main(["pairs", "real", *map(str, where)]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("contrapose: ")]
    assert len(lines) == 1 and told in lines[0]
    assert not (tmp_path / "out").exists()
