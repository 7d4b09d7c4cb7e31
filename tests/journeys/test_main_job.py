"""The main job as a user types it: draw, check, align with each method, sample."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from contrapose.cli.main import main

pytestmark = pytest.mark.slow

SMALL = ["--train-steps", "3", "--batch-size", "4", "--micro-batch", "2", "--holdout", "2", "--learning-rate", "1e-2"]
ODD = ["紅い円 と 青い四角", "un círculo rojo 🎨 à gauche", "a red circle " * 800]  # the last has 10,400 characters


def _run(*arguments: object) -> None:
    assert main([str(a) for a in arguments]) == 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """Prompts, some of them odd, and pairs drawn from them."""
    folder = tmp_path_factory.mktemp("job")
    lines = [f"a {colour} {shape}" for colour in ("red", "green", "blue") for shape in ("circle", "square", "star")]
    (folder / "prompts.txt").write_text("\n".join([*lines, *ODD]), encoding="utf-8")
    _draw(tiny_model, folder)
    return folder


def _draw(model: Path, folder: Path) -> None:
    where = ["--model", model, "--prompts", folder / "prompts.txt", "--out", folder / "pairs"]
    _run("pairs", "draw", *where, "--steps", "2", "--device", "cpu")


def _sample(model: Path, folder: Path, out: Path, *more: object) -> list[np.ndarray]:
    where = ["--model", model, "--prompts", folder / "prompts.txt", "--out", out, "--device", "cpu"]
    _run("sample", *where, "--steps", "2", "--num-images", "1", *more)
    return [np.asarray(Image.open(path)) for path in sorted(out.glob("*/samples/*.png"))]


def test_pairs_are_sound(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _run("pairs", "check", folder / "pairs")
    told = capsys.readouterr().out
    assert "12 pairs of 12 prompts in 1 shards" in told
    assert "problem" not in told
    assert "remark: prompts longer than the text encoder reads" in told


def test_drawing_again_does_nothing(folder: Path, tiny_model: Path) -> None:
    before = {path: path.read_bytes() for path in (folder / "pairs").iterdir()}
    _draw(tiny_model, folder)
    assert {path: path.read_bytes() for path in (folder / "pairs").iterdir()} == before


@pytest.fixture(scope="module")
def plain(folder: Path, tiny_model: Path) -> list[np.ndarray]:
    """What the model itself makes of the prompts."""
    return _sample(tiny_model, folder, folder / "plain")


@pytest.mark.parametrize(
    "method", [["ddspo"], ["ddspo", "--link", "ipo"], ["diffusion-dpo"], ["sft", "--full"]], ids=str
)
def test_align_and_sample(
    folder: Path, tiny_model: Path, plain: list[np.ndarray], tmp_path: Path, method: list[str]
) -> None:
    _run("align", *method, "--model", tiny_model, "--pairs", folder / "pairs", "--out", tmp_path / "run", *SMALL)
    assert json.loads((tmp_path / "run/finished.json").read_text())["steps"] == 3
    aligned = _sample(tiny_model, folder, tmp_path / "aligned", "--adapter", tmp_path / "run")
    assert len(plain) == len(aligned) == 12
    assert any((a != b).any() for a, b in zip(plain, aligned, strict=True)), "training shows"


def test_a_run_file_is_the_whole_run(folder: Path, tiny_model: Path, tmp_path: Path) -> None:
    _run("align", "ddspo", "--model", tiny_model, "--pairs", folder / "pairs", "--out", tmp_path / "a", *SMALL)
    _run("align", tmp_path / "a/run.yaml", "--out", tmp_path / "b")
    assert (tmp_path / "a/run.yaml").read_bytes() == (tmp_path / "b/run.yaml").read_bytes()
    assert _lora(tmp_path / "a") == _lora(tmp_path / "b")


def _lora(run: Path) -> dict[str, bytes]:
    """The weights bit for bit; the order of the header's keys is the library's to choose."""
    tensors = load_file(run / "pytorch_lora_weights.safetensors")
    return {name: value.numpy().tobytes() for name, value in tensors.items()}
