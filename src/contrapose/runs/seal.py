"""The last line of a card, by which one that somebody has edited is known."""

from __future__ import annotations

import hashlib
import re

_SEAL = re.compile(r"\n<!-- contrapose ([0-9a-f]{16}) -->\n")


def sealed(card: str) -> str:
    """A card as it is written, its last line telling what stands above."""
    return f"{card}\n<!-- contrapose {_digest(card)} -->\n"


def is_edited(card: str) -> bool:
    """Whether somebody has changed a card since it was sealed, or wrote it."""
    seal = _SEAL.search(card)
    return seal is None or seal.end() != len(card) or _digest(card[: seal.start()]) != seal[1]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
