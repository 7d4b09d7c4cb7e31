"""What is said of prompts that are longer than a model reads."""

from __future__ import annotations

from collections.abc import Sequence

from contrapose.backbones.base import Backbone
from contrapose.backbones.families.table import reader_of
from contrapose.store.named_prompts import title_of
from contrapose.store.prompts import Prompt


def tell_cut(entries: Sequence[str], prompts: Sequence[Prompt], backbone: Backbone) -> None:
    """Say in one line how many prompts the text encoder will not read to their end, if there are any."""
    reader = reader_of(backbone)
    # duplicates are counted again, so that no list of a million texts has to be kept
    places = [prompt.place for prompt in prompts if reader.count(prompt.text) > reader.limit]
    if places:
        title = title_of(entries)
        print(
            f"{title}: {len(places)} of {len(prompts)} prompts have more than the {reader.limit} tokens that "
            f"the text encoder reads, and are cut there; the first is {places[0]}"
        )
