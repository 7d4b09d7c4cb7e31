"""Rows of the documents' tables, from the summary of an evaluation."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

FOUND = {"value": 0.5, "low": 0.25, "high": 1.0}
CHANGED = {"value": -0.125, "low": -0.5, "high": 0.25}
FID = {"value": 12.0, "interval": {"value": 12.0, "low": 11.0, "high": 13.0}}
LESS = {"value": -2.0, "interval": None}
JUDGED = {"metrics": {"correct": {"overall": FOUND}}}
COMPARED = {"correct": {"difference": CHANGED}}
SUMMARY: dict[str, Any] = {
    "metrics": {"correct": {"higher_is_better": True}},
    "models": {"base": JUDGED, "alone": JUDGED, "dpo/0": JUDGED, "dpo/1": JUDGED},
    "comparisons": {"alone": COMPARED, "dpo/0": COMPARED, "dpo/1": COMPARED},
    "methods": {"dpo": {"runs": ["dpo/0", "dpo/1"], "comparisons": COMPARED, **JUDGED}},
    "sets": {
        "higher_is_better": {"fid": False},
        "models": {name: {"fid": FID} for name in ("base", "alone", "dpo/0", "dpo/1")},
        "differences": {name: {"fid": LESS} for name in ("alone", "dpo/0", "dpo/1")},
        "methods": {"dpo": {"metrics": {"fid": FID}, "differences": {"fid": LESS}}},
    },
}


def test_rows_have_models_of_one_run_and_methods_of_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "studies"))
    script = importlib.import_module("rows")
    columns = [
        script.column(text)
        for text in ("correct:interval:2", "correct:difference:3", "fid:interval:1", "fid:difference:0")
    ]
    values, differences, fid = ".50 [.25, 1.00]", "-.125 [-.500, +.250]", "12.0 [11.0, 13.0]"
    rest = f"{values} | {differences} | {fid} | -2 |"
    assert script.rows(SUMMARY, columns) == [
        f"| base | {values} |  | {fid} |  |",
        f"| alone | {rest}",
        f"| dpo | {rest}",
    ]
    without = SUMMARY | {"sets": None}
    assert script.rows(without, [script.column("correct:value:1")])[1:] == ["| alone | .5 |", "| dpo | .5 |"]
    with pytest.raises(SystemExit, match=r"fid was not measured \(known: correct\)"):
        script.rows(without, columns)
