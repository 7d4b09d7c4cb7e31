"""A hub in memory in place of the real one, and finished runs that are made once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock, create_autospec

import pytest
from hub_in_memory import Hub, finish
from huggingface_hub import HfApi


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """The hub's client, which takes only calls that the real one takes."""
    fake = create_autospec(HfApi, instance=True)
    monkeypatch.setattr("contrapose.publish.hub.HfApi", lambda: fake)
    return fake


@pytest.fixture(autouse=True)
def hub(api: Mock, tmp_path_factory: pytest.TempPathFactory) -> Hub:
    return Hub(api, tmp_path_factory.mktemp("downloads"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bool], Path]:
    """A folder as a finished run leaves it, made once for LoRA and once for full training."""
    made: dict[bool, Path] = {}

    def of_kind(full: bool) -> Path:
        if full not in made:
            made[full] = finish(tmp_path_factory.mktemp("hub"), full)
        return made[full]

    return of_kind
