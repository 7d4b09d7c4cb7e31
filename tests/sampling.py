"""What tests sample."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from contrapose.guiding.settings import Sampling


def few_images(model: Path, folder: Path, prompts: Sequence[str]) -> Sampling:
    """Two images of each prompt in two steps, the prompts in a file of this folder."""
    (folder / "prompts.txt").write_text("\n".join(prompts))
    return Sampling(str(model), (str(folder / "prompts.txt"),), num_images=2, steps=2, batch_size=4)
