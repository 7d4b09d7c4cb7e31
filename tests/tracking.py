"""A stand-in for the package of another service's tracker, which writes down what it is asked."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

WANDB = '''
"""wandb, as far as it is asked. A file beside it, `locked` or `down`, makes it fail; `stop`, press Ctrl-C."""
import json
import signal
from pathlib import Path
LOG = Path(__file__).with_name("asked.jsonl")
def asked(what, **more):
    with LOG.open("a") as log:
        log.write(json.dumps([what, more], default=str) + "\\n")
class Image:
    def __init__(self, image): self.size = image.size
    def __str__(self): return f"image {self.size}"
class Run:
    def log(self, values, step=None):
        if (LOG.parent / "down").exists(): raise ConnectionError("the service is down")
        asked("log", step=step, values=values)
        stop = LOG.parent / "stop"
        if stop.exists() and any(f"{step} {name}".startswith(stop.read_text()) for name in values):
            stop.unlink()
            signal.raise_signal(signal.SIGINT)
    def finish(self): asked("finish")
def init(**options):
    if (LOG.parent / "locked").exists(): raise RuntimeError("api_key not configured\\nlog in")
    asked("init", **options)
    return Run()
class config:
    @staticmethod
    def update(values, allow_val_change=False): asked("config", values=values)
'''


@contextmanager
def stand_in(folder: Path) -> Iterator[Path]:
    """A new folder with the stand-in's package, which is imported as wandb while the block lasts."""
    folder.mkdir()
    (folder / "wandb.py").write_text(WANDB)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs ignore
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(folder)
            yield folder
    finally:
        signal.signal(signal.SIGINT, before)
        sys.modules.pop("wandb", None)


def asked(wandb: Path, what: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (wandb / "asked.jsonl").read_text().splitlines()]
    return [more for name, more in lines if name == what]
