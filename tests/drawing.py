"""Pairs that tests train on."""

from __future__ import annotations

from pathlib import Path

from contrapose.backbones.families.table import load_backbone
from contrapose.draw.pairs import Draw, draw_pairs, plan_pairs


def draw_few(model: Path, prompts: Path, folder: Path) -> Path:
    """Draw a pair of each prompt in two steps; the folder of pairs."""
    draw = Draw(str(model), (str(prompts),), steps=2, shard_size=5)
    for _ in draw_pairs(draw, plan_pairs(draw), load_backbone(model), folder):
        pass
    return folder
