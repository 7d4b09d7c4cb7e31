"""What a command said."""

from __future__ import annotations

import pytest


def said(code: int, capsys: pytest.CaptureFixture[str]) -> str:
    """What a command that ended with this code printed, or the one line that it complained with."""
    printed = capsys.readouterr()
    if code == 0:
        return printed.out
    (complaint,) = [line for line in printed.err.splitlines() if line.startswith("contrapose")]
    assert code == 2
    return complaint
