"""Methods beside each other: the order of their rows, and a picture that is the same again."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

KNOWN = {"correct": {"higher_is_better": True}, "roughness": {"higher_is_better": False}}


def _compared(correct: float, roughness: float) -> dict[str, Any]:
    values = {"correct": correct, "roughness": roughness}
    return {
        metric: {"difference": {"value": value, "low": value - 1, "high": value + 1}}
        for metric, value in values.items()
    }


def _summary() -> dict[str, Any]:
    by_method = {"dpo": _compared(0.1, -1.0), "sft": _compared(-0.1, -2.0), "kto": _compared(0.3, 0.5)}
    methods = {name: {"runs": [f"{name}/0"], "comparisons": compared} for name, compared in by_method.items()}
    runs = {f"{name}/0": compared for name, compared in by_method.items()}
    return {"metrics": KNOWN, "methods": methods, "comparisons": runs}


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "studies"))
    return importlib.import_module("forest")


def test_the_best_method_is_above(script: Any) -> None:
    assert script.ordered(_summary(), "correct") == ["kto", "dpo", "sft"]
    assert script.ordered(_summary(), "roughness") == ["sft", "dpo", "kto"]
    with pytest.raises(SystemExit, match="fid was not measured"):
        script.ordered(_summary(), "fid")
    with pytest.raises(SystemExit, match="several training seeds"):
        script.ordered(_summary() | {"methods": {}}, "correct")


def test_the_same_evidence_is_the_same_picture(script: Any, tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg"):
        script.forest(_summary(), ["roughness", "correct"], {"correct": [-1.0, 1.0]}, tmp_path / name)
    drawn = (tmp_path / "a.svg").read_bytes()
    assert drawn.startswith(b"<?xml") and drawn == (tmp_path / "b.svg").read_bytes()
