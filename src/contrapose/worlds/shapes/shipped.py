"""The shapes model that ships with Contrapose."""

from __future__ import annotations

from pathlib import Path

_WORDS = "tokenizer/tokenizer.json"


def speaks_shapes(model: str) -> bool:
    """Whether a model folder reads the words of the shapes world and no others, by its tokenizer."""
    words = Path(model) / _WORDS
    return words.is_file() and words.read_bytes() == (shipped_model() / _WORDS).read_bytes()


def shipped_model() -> Path:
    """Its folder."""
    return Path(__file__).parent / "model"
