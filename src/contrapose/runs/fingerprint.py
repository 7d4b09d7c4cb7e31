"""What a run notes of the model that it was trained on."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError, safe_open

from contrapose.runs.adapter_files import adapter_file
from contrapose.runs.names import FINISHED

BASE_NOTE = "base_fingerprint"


def noted_fingerprint(run: Path) -> str | None:
    """The digest of the model that a run was trained on, where it tells."""
    path = adapter_file(run)
    if path is None:
        return base_of_run(run)
    with suppress(SafetensorError, OSError), safe_open(path, "pt") as header:
        return (header.metadata() or {}).get(BASE_NOTE)
    return None


def base_of_run(run: Path) -> str | None:
    """The same as the run's own summary tells it, whatever weights are beside that."""
    with suppress(OSError, ValueError, AttributeError, RecursionError):
        return json.loads((run / FINISHED).read_text(encoding="utf-8")).get(BASE_NOTE)
    return None
