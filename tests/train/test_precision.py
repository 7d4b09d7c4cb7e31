"""Which precision a run takes that leaves it open, and keeps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from contrapose import runfile
from contrapose.methods import SFT
from contrapose.train.folder import usual_precision
from contrapose.train.settings import CONVERTER, Run


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that computes in bf16."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)


def test_on_cpus_it_is_single_precision(tmp_path: Path) -> None:
    assert usual_precision(tmp_path) == "fp32"
    assert Run("x", Path("x"), SFT()).resolved().precision == "fp32"


@pytest.mark.usefixtures("gpu")
def test_on_a_gpu_that_has_it_it_is_bf16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert usual_precision(tmp_path) == "bf16"
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert usual_precision(tmp_path) == "fp32"
    monkeypatch.delenv("ACCELERATE_USE_CPU")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert usual_precision(tmp_path) == "fp32"


@pytest.mark.usefixtures("gpu")
def test_what_is_carried_on_keeps_its_own(tmp_path: Path) -> None:
    """A run that began on CPUs goes on in single precision on a GPU, whose usual one it is not."""
    begun = Run("x", Path("x"), SFT()).resolved("fp32")
    runfile.claim(tmp_path / "run.yaml", begun, CONVERTER)
    run = Run("x", Path("x"), SFT())
    resumed = run.resolved(usual_precision(tmp_path))
    assert resumed == begun
    assert run.resolved("bf16").precision == "bf16"
    assert Run("x", Path("x"), SFT(), precision="fp16").resolved("bf16").precision == "fp16"
