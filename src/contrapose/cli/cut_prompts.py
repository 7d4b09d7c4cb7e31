"""What is said of prompts that are longer than a model reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from contrapose.backbones.base import Backbone
from contrapose.backbones.families.table import reader_of
from contrapose.store.prompts import Prompt


def tell_cut(path: Path, prompts: Sequence[Prompt], backbone: Backbone) -> None:
    """Say in one line how many of a file's prompts the text encoder will not read to their end, if there are any."""
    reader = reader_of(backbone)
    too_long = set(reader(dict.fromkeys(prompt.text for prompt in prompts)))
    places = [prompt.place for prompt in prompts if prompt.text in too_long]
    if places:
        print(
            f"{path}: {len(places)} of {len(prompts)} prompts have more than the {reader.limit} tokens that the text "
            f"encoder reads, and are cut there; the first is {places[0]}"
        )
