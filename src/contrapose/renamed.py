"""Settings that were called otherwise: an old name is refused, with the new one told."""

from __future__ import annotations

from collections.abc import Collection

RENAMED = {
    "dtype": "precision",
    "scale": "scales",
    "seeds": "num_images",
    "training_seeds": "seeds",
    "steps": "train_steps",
    "num_steps": "train_steps",
    "sampling_steps": "steps",
    "first_steps": "first_train_steps",
    "whole": "full",
}


def new_name(old: str, known: Collection[str]) -> str | None:
    """What a setting is called now, where it is none of the known ones by its old name."""
    new = RENAMED.get(old)
    return new if old not in known and new in known else None
