"""Prompts to begin with, where none are named: of the world that a model knows, or of anybody's."""

from __future__ import annotations

from contrapose.worlds.shapes.grammar import prompts
from contrapose.worlds.shapes.shipped import speaks_shapes

_ANYBODYS = (
    "a red fox in the snow",
    "two wooden spoons on a blue plate",
    "a green bench left of a lamp",
    "a lighthouse at night, oil painting",
)


def example_prompts(model: str) -> tuple[str, ...]:
    """One prompt of each kind that the shapes world knows, for its models; a few usual ones for others."""
    if speaks_shapes(model):
        return tuple(str(line["prompt"]) for line in prompts("dev", per_tag=1))
    return _ANYBODYS
