"""The malformed inputs that were found by trying, once more; `pytest tests/malformed -m exhaustive`."""

from __future__ import annotations

from pathlib import Path

import pytest

from malformed.run import CASES, complaints


@pytest.mark.exhaustive
def test_every_one_behaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(CASES) == 328
    assert [f"{case}: {message}" for case, message in complaints(tmp_path, CASES)] == []
