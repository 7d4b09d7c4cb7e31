"""A model of every family, as tests of the estimate share them."""

from __future__ import annotations

from pathlib import Path

import families
import pytest
import tiny


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("families")
    return {name: tiny.save(name, root / name) for name in families.DISTINCT}
