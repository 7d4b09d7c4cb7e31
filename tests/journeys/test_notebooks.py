"""The notebooks run from their first cell to their last, in small, and hold no outputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import contrapose as cp

NOTEBOOKS = Path(__file__).parents[2] / "examples" / "notebooks"
SMALL = {
    "align-and-compare": {
        "TRAIN_PROMPTS_PER_TAG": 2, "TEST_PROMPTS_PER_TAG": 1, "IMAGES_PER_PROMPT": 1, "SAMPLING_STEPS": 3,
        "TRAINING_STEPS": 2, "BATCH": 4, "SHOWN": 2,
    },
    "dial": {
        "TRAIN_PROMPTS_PER_TAG": 2, "DEV_PROMPTS_PER_TAG": 1, "IMAGES_PER_PROMPT": 1, "SAMPLING_STEPS": 3,
        "TRAINING_STEPS": 1, "BATCH": 4, "SCALES": (0.0, 1.0),
    },
}  # fmt: skip


def cells_of(name: str) -> list[dict[str, Any]]:
    notebook = json.loads((NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4
    cells: list[dict[str, Any]] = notebook["cells"]
    return cells


def run_notebook(name: str) -> dict[str, Any]:
    """The names that a notebook's cells leave, run in the working directory with the small sizes."""
    sizes, *others = ["".join(cell["source"]) for cell in cells_of(name) if cell["cell_type"] == "code"]
    namespace: dict[str, Any] = {}
    exec(compile(sizes, f"{name}: sizes", "exec"), namespace)
    assert set(namespace) - {"__builtins__"} == set(SMALL[name])
    namespace.update(SMALL[name])
    for number, source in enumerate(others, start=2):
        exec(compile(source, f"{name}: code cell {number}", "exec"), namespace)
    return namespace


def test_every_notebook_is_run_here() -> None:
    assert {path.stem for path in NOTEBOOKS.glob("*.ipynb")} == set(SMALL)


@pytest.mark.parametrize("name", SMALL)
def test_no_outputs_are_stored(name: str) -> None:
    kept = [cell["outputs"] for cell in cells_of(name) if cell["cell_type"] == "code"]
    assert kept and not any(kept)


@pytest.mark.slow
def test_a_model_is_aligned_and_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names = run_notebook("align-and-compare")
    assert names["aligned"].finished and names["aligned"].has_adapters
    assert set(names["summary"].models) >= {"base", "ddspo"}
    assert "ddspo - base: " in capsys.readouterr().out
    assert (tmp_path / "align-and-compare" / "report.html").stat().st_size > 10_000


@pytest.mark.slow
def test_its_effect_is_dialled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = run_notebook("dial")
    assert set(names["summary"].models) == {"w = 0", "w = 1"}
    assert names["strip"].crop((0, 0, 128, 128)).tobytes() != names["strip"].crop((128, 0, 256, 128)).tobytes()
    assert (tmp_path / "dial" / "sweep" / "page.html").is_file()
    assert cp.RunFolder(tmp_path / "dial" / "merged").has_adapters
