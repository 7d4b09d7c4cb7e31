"""Settings that were called otherwise: an old name is refused, with the new one told."""

from __future__ import annotations

from collections.abc import Collection

RENAMED: dict[str, tuple[str, ...]] = {
    "dtype": ("precision",),
    "scale": ("scales",),
    "seeds": ("num_images",),
    "training_seeds": ("seeds",),
    "num_seeds": ("seeds",),
    "first_seed": ("seeds",),
    "steps": ("train_steps",),
    "num_steps": ("train_steps",),
    "sampling_steps": ("steps",),
    "first_steps": ("first_train_steps",),
    "whole": ("full",),
    "prompt": ("prompts",),
    "rate": ("learning_rate",),
    "batch": ("batch_size",),
    "vae_batch": ("vae_batch_size",),
    "prompts": ("num_prompts",),
    "pairs": ("num_pairs",),
    "num": ("num_photos",),
    "base": ("model",),
    "metric": ("by",),
    "images": ("photos", "image_folder", "image_format"),
    # flags that belong to a part of their settings now
    "degrade.model": ("degrade.llm.model",),
    "degrade.endpoint": ("degrade.llm.endpoint",),
    "degrade.temperature": ("degrade.llm.temperature",),
    "degrade.max_new_tokens": ("degrade.llm.max_new_tokens",),
    "degrade.batch_size": ("degrade.llm.batch_size",),
    "degrade.num_retries": ("degrade.llm.num_retries",),
    **{f"{part}tries": (f"{part}patience",) for part in ("", "asking.", "captioner.asking.", "degrade.llm.asking.")},
    "degrade.cache": ("degrade.llm.asking.cache",),
    "degrade.llm.cache": ("degrade.llm.asking.cache",),
}
"""Old names, each with what it is called now: of several, whichever a command has."""


def new_name(old: str, names: Collection[str]) -> str | None:
    """What a setting is called now, where `names` has it under the new name alone."""
    if old in names:
        return None
    return next((new for new in RENAMED.get(old, ()) if new in names), None)
