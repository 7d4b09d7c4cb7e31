"""Draw pairs: the winner from a prompt, the loser from its degraded prompt, with the same starting noise.

Both go through the pipeline's own sampler in one batch, and the sampler's final latents are what is stored; nothing is
decoded or encoded again. A pair depends on its prompt and seed alone, and batches never reach across shards, so a run
that was killed carries on at the first missing shard and ends with the very same files.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from contrapose import runfile
from contrapose.backbones.base import Backbone
from contrapose.core.group import Condition
from contrapose.curate.degrade import Skipped, Words, choose
from contrapose.curate.degraders import DEGRADERS, AnyDegrader
from contrapose.errors import UserError
from contrapose.files import replacing
from contrapose.pairs.prompts import prompt_id, read_prompts
from contrapose.pairs.store import MANIFEST, PairRecord, shard_path, write_shard
from contrapose.sample.embeddings import Embeddings
from contrapose.sample.noise import generator, random_seed, starting_noise

SKIPPED = "skipped.jsonl"


@dataclass(frozen=True)
class Draw:
    """Everything that decides the pairs that are drawn."""

    model: str
    """Model folder or hub id."""
    prompts: Path
    """Prompts: .txt with one a line, or .jsonl with a field `prompt`."""
    degrade: AnyDegrader = field(default_factory=Words)
    """How prompts are degraded."""
    pairs_per_prompt: int = 1
    """Pairs drawn for each prompt, each with its own seed and variant."""
    steps: int = 25
    """Sampling steps."""
    guidance_scale: float = 7.5
    """Classifier-free guidance scale of the drawn images; 1 is off."""
    seed: int = 0
    """Seed of noise and of the choice among degraded variants."""
    shard_size: int = 64
    """Pairs in one file, the unit that a killed run repeats."""
    batch_size: int = 16
    """Pairs drawn at once (each is two images); does not change the pairs."""
    dtype: Literal["fp32", "fp16", "bf16"] = "fp32"
    """Precision of the sampler."""


CONVERTER = runfile.converter((AnyDegrader, DEGRADERS))


@dataclass(frozen=True)
class Plan:
    """The records to draw, in order, and the prompts that were left out with their reason."""

    records: list[PairRecord]
    skipped: list[dict[str, str]]


def plan_pairs(draw: Draw) -> Plan:
    """Read and degrade the prompts; `UserError` when nothing is left to draw."""
    texts = list(dict.fromkeys(prompt.text for prompt in read_prompts(draw.prompts)))
    variants = draw.degrade.variants(texts, draw.seed)
    records, skipped = [], []
    for text, options in zip(texts, variants, strict=True):
        if not options:
            reason = options.reason if isinstance(options, Skipped) else "no degraded variant could be made"
            skipped.append({"prompt": text, "reason": reason})
            continue
        for number in range(draw.pairs_per_prompt):
            seed = random_seed(draw.seed, number)
            records.append(PairRecord(f"{prompt_id(text)}-{number}", text, choose(options, seed, text), seed))
    if not records:
        raise UserError(f"{draw.prompts}: none of its {len(texts)} prompts could be degraded ({skipped[0]['reason']})")
    return Plan(records, skipped)


def manifest(draw: Draw, backbone: Backbone, records: Sequence[PairRecord]) -> dict[str, Any]:
    """What `pairs.yaml` says."""
    return {
        "format": 1,
        "fingerprint": backbone.fingerprint,
        "latent_shape": list(backbone.latent_shape),
        "num_pairs": len(records),
        "prompts_digest": f"{random_seed(*(r.id for r in records)):016x}",  # the file named below may be edited later
        "draw": CONVERTER.unstructure(draw),
    }


def draw_pairs(draw: Draw, plan: Plan, backbone: Backbone, out: Path) -> Iterator[int]:
    """Draw all planned pairs into `out`, yielding the number of pairs done so far; run it again to carry on.

    Raises `UserError` when `out` holds pairs of other settings.
    """
    records = plan.records
    runfile.claim(out / MANIFEST, manifest(draw, backbone, records), CONVERTER, free=["draw.batch_size"])
    with replacing(out / SKIPPED) as aside:
        aside.write_text("".join(json.dumps(s, ensure_ascii=False) + "\n" for s in plan.skipped), encoding="utf-8")
    embeddings = Embeddings(backbone)
    for index, first in enumerate(range(0, len(records), draw.shard_size)):
        shard = records[first : first + draw.shard_size]
        if not shard_path(out, index).exists():
            latents: list[Tensor] = []
            for start in range(0, len(shard), draw.batch_size):
                latents.append(_draw_batch(draw, backbone, embeddings, shard[start : start + draw.batch_size]))
                yield first + start + len(latents[-1])
            pairs = torch.cat(latents)
            write_shard(out, index, shard, {"winner": pairs[:, 0], "loser": pairs[:, 1]})
        yield first + len(shard)


def _draw_batch(draw: Draw, backbone: Backbone, embeddings: Embeddings, records: Sequence[PairRecord]) -> Tensor:
    """Final latents [b, 2, ...]: winners and losers side by side in one sampler call."""
    prompts = [text for r in records for text in (r.prompt, r.degraded)]
    streams = [generator(r.prompt, r.seed) for r in records for _ in range(2)]
    condition: Condition = embeddings(prompts)
    drawn = backbone.pipe(
        **backbone.call_arguments(condition, embeddings([""])),
        latents=starting_noise(streams, backbone.latent_shape).to(backbone.device, backbone.dtype),
        generator=streams,
        num_inference_steps=draw.steps,
        guidance_scale=draw.guidance_scale,
        output_type="latent",
    ).images
    return drawn.float().cpu().unflatten(0, (len(records), 2))
