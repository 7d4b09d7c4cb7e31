"""Importing transformers without its warnings of what is not installed and nothing here needs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

_VERBOSITY = "TRANSFORMERS_VERBOSITY"  # read when transformers is first imported


@contextmanager
def unwarned_of_torchvision() -> Iterator[None]:
    """Where transformers is imported here for the first time, without its warnings of a torchvision that nobody needs.

    What it tells afterwards is as if nothing had been set.
    """
    if _VERBOSITY in os.environ or "transformers" in sys.modules:
        yield
        return
    os.environ[_VERBOSITY] = "error"
    try:
        yield
    finally:
        del os.environ[_VERBOSITY]
        if "transformers" in sys.modules:
            import_module("transformers.utils.logging").set_verbosity_warning()
