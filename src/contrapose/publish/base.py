"""What is known of the model that was trained: its name on the hub, and the licence that it is under."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from contrapose.documents import front_matter, load_json
from contrapose.errors import UserError
from contrapose.runs.names import CARD
from contrapose.runs.origin import hub_id

_LICENSE = ("license", "license_name", "license_link")
_CACHED = re.compile(r"models--([\w.-]+?)--([\w.-]+)")  # a folder of the hub's own cache
_CONFIGS = ("model_index.json", "unet/config.json", "transformer/config.json")
AskHub = Callable[[str], Mapping[str, Any]]


class Base(NamedTuple):
    """The model that was trained, as far as the hub can know it."""

    repo: str | None
    """Its id on the hub; None where neither its name nor its folder tells one."""
    license: Mapping[str, str]
    """As the head of a model card has it: `license`, and `license_name` and `license_link` where it is another one."""


def base_of(model: str, ask_hub: AskHub | None = None) -> Base:
    """What a model's name tells, and its folder: where it was downloaded, its configuration, its own card.

    A folder's own card goes before the hub's, which is asked through `ask_hub` for what the head of a card says there.
    """
    folder = Path(model)
    named = hub_id(model)
    card: Mapping[str, Any] = {}
    if named is None and folder.is_dir():
        with suppress(OSError, UnicodeDecodeError):
            card = front_matter((folder / CARD).read_text(encoding="utf-8"))
        named = _downloaded_from(folder) or _loaded_from(folder) or _first_id(card.get("base_model"))
    stated = _license(card)
    if not stated and named is not None and ask_hub is not None:
        stated = _license(ask_hub(named))
    return Base(named, stated)


def _downloaded_from(folder: Path) -> str | None:
    """The id of a folder in the hub's cache, `models--OWNER--NAME/snapshots/REVISION`."""
    path = folder.resolve()
    cached = _CACHED.fullmatch(path.parent.parent.name)
    if path.parent.name != "snapshots" or cached is None:
        return None
    return f"{cached[1]}/{cached[2]}"


def _loaded_from(folder: Path) -> str | None:
    """What diffusers noted when it wrote the folder: the name that it had loaded the pipeline by."""
    for name in _CONFIGS:
        with suppress(UserError, OSError):
            config = load_json(folder / name)
            origin = _first_id(config.get("_name_or_path")) if isinstance(config, dict) else None
            if origin is not None:
                return origin
    return None


def _first_id(value: object) -> str | None:
    """The hub id that a setting holds, or the first of several."""
    first = value[0] if isinstance(value, list) and value else value
    return hub_id(first) if isinstance(first, str) else None


def _license(card: Mapping[str, Any]) -> dict[str, str]:
    stated = {name: card[name] for name in _LICENSE if isinstance(card.get(name), str)}
    return stated if "license" in stated else {}
