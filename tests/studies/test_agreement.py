"""How a score goes with others of the same groups."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest


def test_what_a_score_would_choose_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "studies"))
    script = importlib.import_module("agreement")
    # of the three pairs of the first group one is equal in what is looked at; that of the second is wrong
    groups = [((1.0, 3.0, 2.0), (0.0, 1.0, 0.0)), ((5.0, 4.0), (0.5, 1.0))]
    assert script.agreement(groups) == (
        "0.750 first, 0.500 last, 0.500 of all; more of it is preferred in 2 of 3 pairs that differ"
    )
