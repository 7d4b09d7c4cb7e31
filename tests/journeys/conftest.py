"""What journeys over several processes share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from launched import Launcher


@pytest.fixture(scope="session")
def launcher() -> Iterator[Launcher]:
    """The process that others are forked from, which loads the libraries once."""
    launcher = Launcher()
    yield launcher
    launcher.close()
