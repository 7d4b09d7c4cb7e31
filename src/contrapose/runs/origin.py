"""What a model is called in what may be published: by its hub id, or by the last part of its path alone."""

from __future__ import annotations

import re
from pathlib import Path, PureWindowsPath

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def public_name(model: str) -> str:
    """The hub id, or the last part of a path."""
    return hub_id(model) or last_name(model)


def hub_id(model: str) -> str | None:
    """The model's name on the hub; none for a folder or file of this machine."""
    return model if _HUB_ID.fullmatch(model) and not Path(model).exists() else None


def last_name(path: str) -> str:
    """The last part of a path of any system."""
    return PureWindowsPath(path).name or Path(path).resolve().name
