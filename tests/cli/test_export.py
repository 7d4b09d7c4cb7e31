"""`contrapose export`: one file out, nothing lost, and one line for whatever cannot be exported."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from contrapose.cli.main import main
from contrapose.runs.names import LORA_FILE


def _run_file(folder: Path, **settings: Any) -> None:
    run = {"model": "m", "pairs": "p", "method": {"name": "sft"}} | settings
    (folder / "run.yaml").write_text(yaml.safe_dump(run))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run of one layer."""
    folder, layer = tmp_path / "run", "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
    folder.mkdir()
    tensors = {f"{layer}.lora_A.weight": torch.ones(2, 768), f"{layer}.lora_B.weight": torch.ones(8, 2)}
    config = json.dumps({"unet.r": 2, "unet.lora_alpha": 3.0})
    save_file(tensors, folder / LORA_FILE, metadata={"lora_adapter_metadata": config})
    _run_file(folder)
    (folder / "finished.json").write_text("{}")
    return folder


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Export, which must fail, and return the one line that is told."""

    def export(*arguments: object) -> str:
        assert main(["export", *map(str, arguments)]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1, lines
        return lines[0]

    return export


def test_export(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "loras" / "mine.safetensors"
    assert main(["export", "--run", str(run), "--format", "kohya", "--out", str(out)]) == 0
    assert "adapters of 1 layers in fp16" in capsys.readouterr().out
    assert load_file(out)[next(k for k in load_file(out) if k.endswith("lora_up.weight"))].dtype == torch.float16
    assert sorted(path.name for path in out.parent.iterdir()) == [out.name]


def test_one_policy_of_several(run: Path, tmp_path: Path, told: Callable[..., str]) -> None:
    """Each has a folder in the run's, as other adapters may."""
    whole = tmp_path / "chats"
    whole.mkdir()
    _run_file(whole, method={"name": "chats"})
    out = tmp_path / "positive.safetensors"
    for name in ("positive", "else"):
        (whole / name).mkdir()
        (whole / name / LORA_FILE).write_bytes((run / LORA_FILE).read_bytes())
    assert "name " in told("--run", whole, "--out", out), "its policies"
    assert main(["export", "--run", str(whole / "positive"), "--out", str(out)]) == 0
    assert main(["export", "--run", str(whole / "else"), "--out", str(tmp_path / "else.safetensors")]) == 0, "no run's"


def test_nothing_is_lost(run: Path, tmp_path: Path, told: Callable[..., str]) -> None:
    out = tmp_path / "mine.safetensors"
    out.write_text("precious")
    assert "is there already" in told("--run", run, "--out", out)
    assert out.read_text() == "precious"
    assert main(["export", "--run", str(run), "--out", str(out), "--overwrite"]) == 0
    assert load_file(out)
    before = (run / LORA_FILE).read_bytes()
    assert "the run's own weights" in told("--run", run, "--out", run / LORA_FILE, "--overwrite")
    assert (run / LORA_FILE).read_bytes() == before


def test_wrong_arguments(run: Path, tmp_path: Path, told: Callable[..., str]) -> None:
    out = tmp_path / "mine.safetensors"
    assert "invalid choice 'onnx' for argument '--format'" in told("--run", run, "--out", out, "--format", "onnx")
    assert "ends in .safetensors" in told("--run", run, "--out", tmp_path / "mine.ckpt")
    out.mkdir()
    assert "is a folder" in told("--run", run, "--out", out)
    assert "no such run" in told("--run", tmp_path / "none", "--out", tmp_path / "a.safetensors")
    assert "holds no adapters" in told("--run", out, "--out", tmp_path / "a.safetensors")


def test_runs_without_finished_adapters(run: Path, tmp_path: Path, told: Callable[..., str]) -> None:
    out = tmp_path / "mine.safetensors"
    (run / "finished.json").unlink()
    (run / LORA_FILE).unlink()
    assert "has the run finished?" in told("--run", run, "--out", out)
    assert "step 3 is not kept (those that are: none)" in told("--run", f"{run}@3", "--out", out)
    (run / "model" / "unet").mkdir(parents=True)
    assert "trained in full" in told("--run", run, "--out", out)
    assert not out.exists()


def test_the_same_export_again_is_done_already(
    run: Path, tmp_path: Path, told: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mine.safetensors"
    one = ["--run", run, "--out", out]
    assert main(["export", *map(str, one)]) == 0
    before = out.stat().st_mtime_ns
    capsys.readouterr()
    assert main(["export", *map(str, one)]) == 0
    assert capsys.readouterr().out.endswith("(was there already)\n")
    assert out.stat().st_mtime_ns == before
    assert "is not what this would write" in told(*one, "--precision", "bf16")
