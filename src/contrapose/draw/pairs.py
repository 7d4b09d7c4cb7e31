"""Draw pairs: the winner from a prompt, the loser from its degraded prompt, with the same starting noise.

Or groups: several samples of the prompt itself, each from noise of its own. All of a pair or a group go through the
pipeline's own sampler in one batch, and the sampler's final latents are what is stored; nothing is decoded or encoded
again. A pair depends on its prompt and seed alone, and batches never reach across shards, so a run that was killed
carries on at the first missing shard and ends with the very same files, and several processes share a folder.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from contrapose.backbones.base import Backbone
from contrapose.backbones.digests import model_digest
from contrapose.backbones.embeddings import Embeddings
from contrapose.backbones.generation import Generation
from contrapose.containers.left_out import LeftOut
from contrapose.containers.places import digest_at
from contrapose.degrade.degrader import choose, degraded
from contrapose.degrade.given import Given
from contrapose.draw.settings import CONVERTER, Draw
from contrapose.errors import UserError
from contrapose.seeds import generator, seed_of, starting_noise
from contrapose.store.manifest import MANIFEST
from contrapose.store.named_prompts import digest_of_named, iter_named, title_of
from contrapose.store.prompt_table import PromptTable
from contrapose.store.prompts import Prompt, prompt_id
from contrapose.store.record_table import RecordTable
from contrapose.store.records import GroupRecord
from contrapose.store.shards import begin, by_size, fill
from contrapose.workers import ALONE, Worker


@dataclass(frozen=True)
class DrawPlan:
    """The records to draw, in order, what was left out of the prompts with its reason, and all that were read."""

    records: Sequence[GroupRecord]
    left_out: list[LeftOut]
    prompts: Sequence[Prompt] = ()
    """The file's prompts in order without their fields, duplicates kept, of which each text is drawn once."""
    num_repeated: int = 0
    """How many of them repeat the text of an earlier one."""


def plan_pairs(draw: Draw) -> DrawPlan:
    """Read the prompts and degrade them for pairs; `UserError` when nothing is left to draw.

    Prompts and records lie in files without names, as they come: a million take no more memory than a thousand.
    """
    left_out: list[LeftOut] = []
    prompts = PromptTable(_prompts_of(iter_named(draw.prompts), left_out))
    # each text once, where it first stands
    texts = prompts.records.distinct_texts(["prompt"])
    num_distinct = prompts.records.num_distinct("prompt")
    records = RecordTable.holding(_planned(draw, texts, left_out))
    if not records:
        raise UserError(
            f"{title_of(draw.prompts)}: none of its {num_distinct} prompts could be degraded ({left_out[-1].reason})"
        )
    return DrawPlan(records, left_out, prompts, len(prompts) - num_distinct)


def _prompts_of(rows: Iterable[Prompt | LeftOut], left_out: list[LeftOut]) -> Iterator[Prompt]:
    """The prompts among the rows of a list, without their fields; the others are added to `left_out`."""
    for row in rows:
        if isinstance(row, LeftOut):
            left_out.append(row)
        else:
            yield Prompt(row.text, place=row.place)


def _planned(draw: Draw, texts: Iterable[str], left_out: list[LeftOut]) -> Iterator[GroupRecord]:
    """The records of these prompts; those that cannot be degraded are added to `left_out`."""
    # the same for every prompt: the noise goes by prompt and seed together
    seeds = [seed_of(draw.seed, number) for number in range(draw.pairs_per_prompt)]
    if draw.samples_per_prompt is not None:
        for text in texts:
            name = prompt_id(text)
            for number, seed in enumerate(seeds):
                yield GroupRecord.undecided(f"{name}-{number}", text, seed, draw.samples_per_prompt)
        return
    for text, options in degraded(draw.degrade, texts, draw.seed):
        if isinstance(options, LeftOut):
            left_out.append(options)
            continue
        name = prompt_id(text)
        for number, seed in enumerate(seeds):
            yield GroupRecord.pair(f"{name}-{number}", text, choose(options, seed, text), seed)


def draw_pairs(draw: Draw, plan: DrawPlan, backbone: Backbone, out: Path, worker: Worker = ALONE) -> Iterator[int]:
    """Draw all planned pairs into `out`, yielding the number of pairs done so far; run it again to carry on.

    Several workers draw a folder together, each the files that no other one has.

    Raises `UserError` when `out` holds pairs of other settings, or for a size that the model cannot make.
    """
    draw = backbone.sampler.with_usual(draw)
    sizes: tuple[str | None, ...] = draw.sizes or (None,)
    shapes = {size: backbone.images.shape_for(size) for size in sizes}
    # by the record alone, so that no other prompt changes a pair's size
    sized: Iterable[str | None] = (sizes[seed_of(r.id, r.seed, "size") % len(sizes)] for r in plan.records)
    if len(sizes) == 1:
        sized = sizes * len(plan.records)
    shards = by_size(plan.records, sized, sizes, draw.shard_size)
    records = (record for _, shard in shards for record in shard)
    embeddings = Embeddings(backbone.text)

    def make(size: str | None, records: Sequence[GroupRecord]) -> Tensor:
        return _draw_batch(draw, backbone, embeddings, records, shapes[size])

    # the folder is claimed last, so that what is refused above leaves none
    with worker.writing(out):
        inputs = {"draw.model": model_digest(draw.model, draw.loading), "draw.prompts": digest_of_named(draw.prompts)}
        if isinstance(draw.degrade, Given) and draw.degrade.file is not None:
            inputs["draw.degrade.file"] = digest_at(draw.degrade.file)
        with worker.in_turn(out / MANIFEST):
            begin(out, {"draw": draw}, CONVERTER, backbone.fingerprint, records, plan.left_out, inputs)
        yield from fill(out, shards, draw.batch_size, make, worker=worker)


def _draw_batch(
    draw: Draw, backbone: Backbone, embeddings: Embeddings, records: Sequence[GroupRecord], shape: tuple[int, ...]
) -> Tensor:
    """Final latents [b, n, ...]: the samples of each record side by side in one sampler call."""
    assert draw.steps is not None and draw.guidance_scale is not None
    samples = [sample for record in records for sample in _samples(record)]
    streams = [generator(*named) for _, *named in samples]
    drawn = backbone.sampler.generate(
        Generation(
            embeddings([text for text, *_ in samples]),
            embeddings.unconditional(),
            starting_noise(streams, shape),
            streams,
            draw.steps,
            draw.guidance_scale,
        )
    )
    return drawn.float().cpu().unflatten(0, (len(records), records[0].num_samples))


def _samples(record: GroupRecord) -> list[tuple[str, str, int]]:
    """Each sample of a record: the prompt that it is drawn from, and the prompt and seed that name its stream."""
    if record.degraded:
        # winner and loser have a stream each that begins alike, for samplers that draw on the way
        return [(text, record.prompt, record.seed) for text in (record.prompt, record.degraded)]
    return [(record.prompt, record.prompt, seed_of(record.seed, place)) for place in range(record.num_samples)]
