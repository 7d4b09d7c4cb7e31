"""Which precision is taken where a setting leaves it open, and what carries on keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from contrapose import runfile
from contrapose.backbones.loading import DTYPES
from contrapose.backbones.precision import precision_of, usual_precision
from contrapose.errors import UserError
from contrapose.methods import SFT
from contrapose.train.folder import settled_stages
from contrapose.train.settings import CONVERTER, Run

RUN = Run("x", Path("x"), SFT())


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that computes in bf16."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)


@pytest.mark.usefixtures("gpu")
def test_it_is_bf16_on_a_gpu_that_has_it_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert usual_precision("cuda") == usual_precision("cuda:1") == "bf16"
    assert usual_precision("cpu") == usual_precision("mps") == "fp32"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert usual_precision("cuda") == "fp32"


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(
    ("text", "section", "precision"),
    [
        ("precision: fp16", "", "fp16"),
        ("draw: {precision: fp32}", "draw", "fp32"),
        ("draw: {precision: fp32}", "import", "bf16"),
        ("draw: fp32", "draw", "bf16"),
        ("precision:", "", "bf16"),
        ("precision: [fp32]", "", "bf16"),
    ],
)
def test_what_was_begun_keeps_its_own(tmp_path: Path, text: str, section: str, precision: str) -> None:
    begun = tmp_path / "settings.yaml"
    assert usual_precision("cuda", begun, section) == "bf16"
    begun.write_text(text)
    assert usual_precision("cuda", begun, section) == precision


@pytest.mark.usefixtures("gpu")
def test_a_run_takes_it_where_accelerate_computes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert RUN.resolved().precision == "fp32"
    assert RUN.resolved("bf16").precision == "bf16"
    assert settled_stages(RUN, tmp_path)[0].run.precision == "bf16"
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert settled_stages(RUN, tmp_path)[0].run.precision == "fp32"


@pytest.mark.usefixtures("gpu")
def test_a_run_that_is_carried_on_keeps_its_own(tmp_path: Path) -> None:
    """One that began on CPUs goes on in single precision on a GPU, whose usual one it is not."""
    begun = RUN.resolved("fp32")
    runfile.claim(tmp_path / "run.yaml", begun, CONVERTER)
    assert settled_stages(RUN, tmp_path)[0].run == begun
    assert Run("x", Path("x"), SFT(), precision="fp16").resolved("bf16").precision == "fp16"


def test_types_and_names() -> None:
    names: dict[Any, str] = {dtype: precision_of(dtype) for dtype in DTYPES.values()}
    assert [DTYPES[name] for name in names.values()] == list(names)
    with pytest.raises(UserError, match=r"torch\.float64 has no --precision"):
        precision_of(torch.float64)
