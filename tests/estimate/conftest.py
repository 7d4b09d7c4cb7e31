"""A model of every family, as tests of the estimate share them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import families
import pytest


@pytest.fixture(scope="session")
def folders(tiny_family: Callable[[str], Path]) -> dict[str, Path]:
    return {name: tiny_family(name) for name in families.DISTINCT}
