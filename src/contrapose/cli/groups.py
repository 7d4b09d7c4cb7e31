"""How the help of a command with many flags is grouped: by what a user does first."""

from __future__ import annotations

ALONE = 12  # flags that need no groups

# Names of settings, and of sections whose settings stand together; what is in no group is for experts.
_NAMES = {
    "model and data": """
        out model images prompts pairs photos image_folder source winners losers metadata format split limit
        adapter start policies num_images num_prompts num_pairs pairs_per_prompt samples_per_prompt seed seeds
        size sizes steps guidance_scale image_format foreign_pairs device overwrite push_to_hub title label json
        pairs_per_class num_modes neighbours noisy_spread mislabelled carelessness
        """,
    "pairs": "degrade spoil filters captioner near_duplicates ties only_models likes",
    "method": """
        methods method link beta swap reference_decay reference_every mask_floor caption_dropout distilled_guidance
        time_density time_draws time_shift kl_weight log_snr_mean log_snr_spread
        """,
    "guidance": """
        positive negative guidance scales most negative_prompt nag_scale nag_tau nag_alpha nag_interval
        """,
    "LoRA": "full lora_rank lora_alpha adapters",
    "memory": """
        card precision micro_batch gradient_checkpointing split_pairs shard shard_over num_processes quantize optimizer
        peak_tflops utilisation
        """,
    "speed": "speed",
    "schedule": """
        optimisation first train_steps learning_rate warmup ema_decay width reference_steps
        vae_steps vae_batch_size vae_learning_rate
        """,
    "fitting": "fitting",
    "judging": """
        best_of suite judges features base allow_missing skip_broken compare shown samples_per_class
        rollout_judges rollout_by
        """,
    "watching": "watching",
    "expert": "beta1 beta2 weight_decay epsilon max_grad_norm cache_limit",
}
GROUPS = {group: tuple(names.split()) for group, names in _NAMES.items()}
# Sections all of whose settings stand in one group.
_TOGETHER = ("degrade", "spoil", "filters", "captioner", "method", "watching")
_GROUP_OF = {name: group for group, names in GROUPS.items() for name in names}


def group_of(key: tuple[str | int, ...]) -> str:
    """The group of a setting, by its own name, or else by the innermost settings that it is among."""
    names = [str(name) for name in key if name in _TOGETHER]
    names += [str(name) for name in reversed(key) if name in _GROUP_OF]
    return _GROUP_OF[names[0]] if names else "expert"
