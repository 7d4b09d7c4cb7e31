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
    too_long = set(reader(dict.fromkeys(prompt.text for prompt in prompts)))
    places = [prompt.place for prompt in prompts if prompt.text in too_long]
    if places:
        title = title_of(entries)
        print(
            f"{title}: {len(places)} of {len(prompts)} prompts have more than the {reader.limit} tokens that "
            f"the text encoder reads, and are cut there; the first is {places[0]}"
        )
