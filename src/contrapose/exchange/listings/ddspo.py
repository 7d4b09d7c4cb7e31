"""DDSPO's prepared latents: `metadata.jsonl` of {id, prompt, neg_prompt, pos_file, neg_file}, beside `latents/`.

The files are safetensors with one tensor `latent`, in the denoiser's scale, drawn from the prompt and from the degraded
prompt. They do not say which model drew them.
"""

from __future__ import annotations

from contrapose.containers.row import ContainerRow
from contrapose.exchange.listings.listed import Format, Listed, Reading, each

FILES = ("pos_file", "neg_file")
COLUMNS = ("prompt", "neg_prompt", *FILES)


def _pair(row: ContainerRow, reading: Reading) -> Listed:
    degraded = row.caption("neg_prompt")
    folder = row.source.parent / "latents"
    winner, loser = (row.image(key, folder) for key in FILES)
    return Listed.pair(row.name, row.caption("prompt"), winner, loser, degraded=degraded)


DDSPO = Format(("pos_file",), each(_pair, COLUMNS, masked=False), COLUMNS, latents=True)
