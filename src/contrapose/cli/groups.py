"""How the help of a command with many flags is grouped: by what a user does first."""

from __future__ import annotations

ALONE = 12  # flags that need no groups

GROUPS: dict[str, tuple[str, ...]] = {
    "model and data": (
        *(
            "out",
            "model",
            "prompts",
            "pairs",
            "photos",
            "image_folder",
            "image_format",
            "source",
            "winners",
            "losers",
            "metadata",
            "format",
            "split",
            "limit",
        ),
        *("adapter", "start", "policies", "num_images", "pairs_per_prompt", "seed", "size", "sizes", "steps"),
        *("guidance_scale", "foreign_pairs", "device", "overwrite", "push_to_hub", "title", "label"),
    ),
    "pairs": ("degrade", "spoil", "filters", "captioner", "near_duplicates", "ties", "only_models"),
    "method": ("method", "link", "swap", "caption_dropout", "distilled_guidance", "time_density", "time_shift"),
    "guidance": ("positive", "negative", "guidance", "negative_prompt", "nag_scale", "nag_tau", "nag_alpha", "scales"),
    "LoRA": ("full", "lora_rank", "lora_alpha"),
    "memory": (*("precision", "micro_batch", "gradient_checkpointing", "split_pairs", "quantize", "optimizer"),),
    "schedule": ("optimisation", "first"),
    "fitting": ("fitting",),
    "watching": ("watching",),
    "expert": ("beta1", "beta2", "weight_decay", "epsilon", "max_grad_norm", "max_drift", "cache_limit"),
}
_TOGETHER = ("degrade", "spoil", "filters", "captioner", "method")  # all of whose settings stand in one group
_GROUP_OF = {name: group for group, names in GROUPS.items() for name in names}


def group_of(key: tuple[str | int, ...]) -> str:
    """The group of a setting, by its own name, or else by the innermost settings that it is among."""
    names = [str(name) for name in key if name in _TOGETHER]
    names += [str(name) for name in reversed(key) if name in _GROUP_OF]
    return _GROUP_OF[names[0]] if names else "expert"
