"""For every test: one thread a worker, array shapes checked in `core`, and what cannot run here is skipped."""

from __future__ import annotations

import importlib.util
import logging
import os
from pathlib import Path

import pytest
import torch

if importlib.util.find_spec("beartype"):
    # Before anything imports contrapose: shapes in annotations are checked under pytest, and cost its users nothing.
    # Not core.objective, as beartype asks for runtime-checkable protocols.
    from jaxtyping import install_import_hook

    install_import_hook(
        [f"contrapose.core.{name}" for name in ("group", "links", "path", "reward")], "beartype.beartype"
    )

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # workers times threads would be more than the cores

WEIGHTS = "CONTRAPOSE_WEIGHTS"  # a folder of published weights


def pytest_configure() -> None:
    """Transformers tells once a class that torchvision is absent; no test needs it."""
    log = logging.getLogger("transformers.utils.import_utils")
    log.addFilter(lambda record: "requires torchvision" not in record.getMessage())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    weights = os.environ.get(WEIGHTS)
    missing = {
        "gpu": None if torch.cuda.is_available() else "no CUDA device",
        "weights": None if weights and Path(weights).is_dir() else f"{WEIGHTS} names no folder of weights",
    }
    for item in items:
        for marker, reason in missing.items():
            if reason and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))
