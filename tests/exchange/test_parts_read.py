"""Which parts of a model imports and exports read: most of it is its denoiser, and of some models its text encoder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from contrapose.cli.main import main
from contrapose.store.groups import GroupStore

COLOURS = {"good": ("red", "green", "blue"), "bad": ("grey", "white", "black")}


@pytest.fixture
def spoiled(tiny_model: Path, tmp_path: Path) -> Path:
    """A model of which the autoencoder alone can be loaded."""
    model = shutil.copytree(tiny_model, tmp_path / "model")
    for weights in (*model.glob("unet/*.safetensors"), *model.glob("text_encoder/*.safetensors")):
        save_file({name: value * float("nan") for name, value in load_file(weights).items()}, weights)
    return model


def test_of_the_model_its_autoencoder_alone_is_read(
    spoiled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder, colours in COLOURS.items():
        (tmp_path / folder).mkdir()
        for number, colour in enumerate(colours):
            Image.new("RGB", (32, 32), colour).save(tmp_path / folder / f"p{number}.png")
            (tmp_path / folder / f"p{number}.txt").write_text(f"a circle, number {number}", encoding="utf-8")
    pairs = tmp_path / "pairs"
    folders = ["--winners", str(tmp_path / "good"), "--losers", str(tmp_path / "bad")]
    line = ["pairs", "import", "--model", str(spoiled), *folders, "--resolution", "32", "--out", str(pairs)]
    assert main(line) == 0
    assert len(GroupStore(pairs)) == 3
    out = tmp_path / "a.parquet"
    assert main(["pairs", "export", str(pairs), "--model", str(spoiled), "--out", str(out)]) == 0
    assert out.is_file()
    assert main([*line, "--quantize", "nf4"]) == 2
    assert "--quantize" in capsys.readouterr().err, "there is no denoiser to quantise"
