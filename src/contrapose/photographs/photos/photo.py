"""One photograph as it is listed: its name, its place and what is said of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from contrapose.containers.left_out import LeftOut, Skip
from contrapose.containers.stored import Stored
from contrapose.exchange.listings.listed import Listed, caption

CAPTIONS = ("caption", "text", "prompt")


@dataclass(frozen=True, slots=True)
class Photo:
    """A photograph that nobody has opened yet; `name` is its own within the source, and no place on this machine."""

    name: str
    image: Stored
    caption: str | None


def one_line(text: Any) -> str | None:
    """A caption in one line; None for what is none, or holds what nothing later could read or write."""
    try:
        return " ".join(caption(text).split())
    except Skip:
        return None


def caption_in(row: Mapping[str, Any]) -> str | None:
    """The first caption with words in it, under its usual names in their order."""
    said = (one_line(row[name]) for name in CAPTIONS if name in row)
    return next((text for text in said if text), None)


def best_of(name: str, pair: Listed | LeftOut) -> Photo | LeftOut:
    """The image that was liked better; a tie has none."""
    if isinstance(pair, LeftOut):
        return replace(pair, name=name)
    if pair.preference == 0.5:
        return LeftOut(name, "tie", "a tie: neither of its images was liked better")
    return Photo(name, pair.winner, one_line(pair.prompt))
