"""Images that a run drew on its way, as its folder has them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from contrapose.runs.watched import watched_folder


def draw_step(run: Path, step: int, prompts: Sequence[str], seeds: int = 1) -> None:
    """Write images of these prompts, of another colour for each step, prompt and seed."""
    for number, prompt in enumerate(prompts):
        folder = watched_folder(run, step) / f"{number:05d}"
        (folder / "samples").mkdir(parents=True)
        (folder / "metadata.jsonl").write_text(json.dumps({"prompt": prompt}) + "\n")
        for seed in range(seeds):
            Image.new("RGB", (8, 8), (step % 256, number, seed)).save(folder / f"samples/{seed:04d}.png")
