"""DDSPO's prepared latents: `metadata.jsonl` of {id, prompt, neg_prompt, pos_file, neg_file}, beside `latents/`.

The files are safetensors with one tensor `latent`, in the denoiser's scale, drawn from the prompt and from the degraded
prompt. They do not say which model drew them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from contrapose.containers.left_out import LeftOut, attempt
from contrapose.exchange.listings.listed import Listed, Reading, caption, stored
from contrapose.exchange.listings.metadata import field
from contrapose.store.prompts import Prompt, read_prompts


def pairs(path: Path, reading: Reading) -> Iterator[Listed | LeftOut]:
    """The listing's lines, by the places of their latents; raises `UserError` naming the line that lacks a field."""
    for row in read_prompts(path):
        yield attempt(f"line {row.line}", _pair, path, row)


def _pair(path: Path, row: Prompt) -> Listed:
    name = f"line {row.line}"
    where = f"{path}: {name}"
    degraded = caption(field(row, "neg_prompt", where))
    winner, loser = (
        stored(path.parent / "latents", field(row, key, where), key, where) for key in ("pos_file", "neg_file")
    )
    return Listed(name, row.text, winner, loser, degraded=degraded)
