"""What a PNG says of itself: its prompt, seed and settings, in two text chunks.

`parameters` is a text as AUTOMATIC1111 writes and reads it; `contrapose` is a JSON object of

    version    1
    prompt, seed, size     as they are typed; the noise comes of prompt and seed together
    settings   all that decides the image beside these, by the names that the settings have in `images.yaml`
    scheduler  the class of the pipeline's scheduler
    inputs     digests of what the settings name: the model's and the runs'
    made_by    this package and its version

A model and a run are called by the last name of their path, so that no place on the machine is told. How the images
were cut into batches is not in it, nor which file the prompt stood in: the same image is the same file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from PIL.PngImagePlugin import PngInfo

from contrapose import __version__
from contrapose.pixels import Size

PARAMETERS = "parameters"
OWN = "contrapose"
_VERSION = 1
_MADE_BY = f"contrapose {__version__}"
_PATHS = ("model", "adapter", "positive", "negative")
_OF_THE_WORK = (
    "prompts",
    "num_images",
    "best_of",
    "batch_size",
    "size",
)  # settings of a folder of images, not of an image


@dataclass(frozen=True)
class Inscription:
    """What all images of one sampling say; `settings` are as a file of them has them."""

    settings: Mapping[str, Any]
    scheduler: str
    inputs: Mapping[str, str] = field(default_factory=dict)

    def of(self, prompt: str, seed: int, size: tuple[int, int]) -> PngInfo:
        """The chunks of one image, to be saved with it."""
        named = named_settings(self.settings)
        shown_size = str(Size(*size))
        entry = {
            "version": _VERSION,
            "prompt": prompt,
            "seed": seed,
            "size": shown_size,
            "settings": named,
            "scheduler": self.scheduler,
            "inputs": {name: digest for name, digest in self.inputs.items() if name not in _OF_THE_WORK},
            "made_by": _MADE_BY,
        }
        chunks = PngInfo()
        chunks.add_text(PARAMETERS, _parameters(prompt, seed, shown_size, self.scheduler, named))
        chunks.add_text(OWN, json.dumps(entry))
        return chunks


def named_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that decide an image, without those that are unset, and with names in place of paths."""
    named: dict[str, Any] = {}
    for key, value in settings.items():
        if key in _OF_THE_WORK or value is None:
            continue
        if key in _PATHS:
            # of the page to play with a list
            named[key] = _name(key, value) if isinstance(value, str) else list(map(partial(_name, key), value))
        elif isinstance(value, Mapping):
            named[key] = named_settings(value)
        else:
            named[key] = value
    # a guidance that no run gives decides nothing
    if not (named.get("positive") or named.get("negative")):
        named.pop("guidance", None)
    return {key: value for key, value in named.items() if value not in ({}, [])}


def _name(key: str, path: str) -> str:
    """The last name of a path; a hub id, which names no place and is a model's alone, as it is."""
    is_id = key == "model" and path.count("/") == 1 and not path.startswith((".", "/", "~")) and not Path(path).exists()
    return path if is_id else Path(path).resolve().name


def _parameters(prompt: str, seed: int, size: str, scheduler: str, named: Mapping[str, Any]) -> str:
    """AUTOMATIC1111's text: the prompt, the negative prompt, and a line of settings."""
    guiding = named.get("guiding", named)
    entries = {
        "Steps": named["steps"],
        "Sampler": scheduler.removesuffix("Scheduler"),
        "CFG scale": f"{named['guidance_scale']:g}",
        "Seed": seed,
        "Size": size,
        "Model": named["model"],
        "Adapter": named.get("adapter"),
        "Guided towards": guiding.get("positive"),
        "Guided away from": guiding.get("negative"),
        "Guidance": guiding.get("guidance", {}).get("name"),
        "Guidance strength": guiding.get("guidance", {}).get("scale"),
        "Version": _MADE_BY,
    }
    line = ", ".join(f"{name}: {_quoted(value)}" for name, value in entries.items() if value is not None)
    lines = [prompt, line]
    if guiding.get("negative_prompt"):
        lines.insert(1, f"Negative prompt: {guiding['negative_prompt']}")
    return "\n".join(lines)


def _quoted(value: Any) -> str:
    """A value as that line holds it: as JSON where it would be taken for the line's own signs."""
    text = ", ".join(value) if isinstance(value, list) else str(value)
    if any(sign in text for sign in ",:\n"):
        return json.dumps(text, ensure_ascii=False)
    return text
