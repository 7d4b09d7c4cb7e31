"""Cards as Markdown: their head, which the hub reads, and anybody's texts in them, shown and not obeyed."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from functools import cache
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from contrapose import __version__
from contrapose.publish.base import Base
from contrapose.publish.gallery import CardImages
from contrapose.runs.names import FULL_FOLDER
from contrapose.runs.seal import sealed

_MARKUP = re.compile(r"[\\`*\[\]|~#$!]|(?<![^\W_])_|_(?![^\W_])")  # an underscore within a word marks nothing


def plain(text: object) -> str:
    """Any text as one line of Markdown that shows it and does nothing else."""
    # line breaks would end a table's row, and Markdown lets HTML through: both go before Markdown's own signs
    escaped = html.escape(" ".join(str(text).split()), quote=False)
    return _MARKUP.sub(r"\\\g<0>", escaped)


def rendered(template: str, **values: Any) -> str:
    """A card by its template, sealed."""
    return sealed(_templates().get_template(template).render(**values).rstrip("\n") + "\n")


@cache
def _templates() -> Environment:
    """The templates of this folder, each compiled once a process, and what all of them may name."""
    templates = Environment(
        loader=PackageLoader("contrapose.publish", "."),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    templates.filters |= {"plain": plain, "literal": repr}
    templates.globals |= {"version": __version__, "full_folder": FULL_FOLDER}
    return templates


def head(base: Base, relation: str, tags: Sequence[str], gallery: CardImages, library: str = "diffusers") -> str:
    """What the hub reads of a card: the model below it, its licence, tags, and prompts with their images.

    `relation` is how it came of the base model, in the hub's words: adapter, finetune or merge.
    """
    front: dict[str, Any] = {}
    if base.repo is not None:
        front = {"base_model": base.repo, "base_model_relation": relation}  # the hub links it, so only a name it knows
    front |= base.license
    front |= {"library_name": library, "pipeline_tag": "text-to-image", "tags": ["text-to-image", "contrapose", *tags]}
    if gallery.images:
        front["widget"] = [{"text": image.prompt, "output": {"url": image.name}} for image in gallery.images]
    return yaml.safe_dump(front, sort_keys=False, allow_unicode=True)
