"""Score the samples of groups: what judges say of each is stored beside it, and labels and latents stay as they are.

    OUT/score.yaml, inputs.yaml    the settings, and digests of the groups, the judges and the autoencoder
    OUT/shard-*.safetensors        the scored groups, a file as soon as its images are judged
    OUT/pairs.yaml                 written last, when all are

A score depends on the sample and its prompt alone. A run that was killed carries on at the first missing file, and
several processes share a folder, of which the last to end writes `pairs.yaml`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
from torch import Tensor

from contrapose import runfile
from contrapose.containers.places import digest_at
from contrapose.errors import UserError
from contrapose.judges.judge import Decode, Judge, images_at_once, in_batches, marks_of
from contrapose.labels.regrouped import Samples, check_identifiers, directions, origin
from contrapose.labels.settings import CONVERTER, Scoring
from contrapose.store.groups import GroupStore
from contrapose.store.manifest import MANIFEST
from contrapose.store.noted_digests import NotedDigests
from contrapose.store.prompt_table import PromptTable
from contrapose.store.prompts import Prompt, iter_listed
from contrapose.store.record_table import first_of_each
from contrapose.store.records import GroupRecord
from contrapose.store.shard_files import SHARDS, shard_path, write_shard
from contrapose.store.shards import begin, made_before
from contrapose.workers import ALONE, Worker

log = logging.getLogger(__name__)

SETTINGS = "score.yaml"
_BETTER = {True: "higher", False: "lower"}  # as pairs.yaml says it of each score


def judged_prompts(settings: Scoring, store: GroupStore) -> Callable[[str], Prompt]:
    """Gives each of the groups' prompts by its text, with what the settings' file tells of it.

    Raises `UserError` for a file that cannot be read, and for a prompt of the groups that it does not have.
    """
    if settings.prompts is None:
        return Prompt
    listed = PromptTable(row for row in iter_listed(settings.prompts) if isinstance(row, Prompt))
    keys = store.records.keys("prompt")
    firsts = first_of_each(keys)
    missing = firsts[~np.isin(keys[firsts], listed.records.keys("prompt"))]
    if len(missing):
        (example,) = store.records.texts("prompt", missing[:1])
        raise UserError(
            f"{settings.prompts}: lacks {len(missing)} of the groups' {len(firsts)} prompts, such as {example!r}; "
            "name the file that they were drawn from"
        )
    return listed.of_text


def score_groups(
    settings: Scoring,
    store: GroupStore,
    judge: Judge,
    decode: Decode,
    decoder: str,
    out: Path,
    worker: Worker = ALONE,
) -> Iterator[int]:
    """Score all groups of a store into `out`, yielding the number done so far; run it again to carry on.

    Several workers score into a folder together, each the files that no other one has. `decoder` is the fingerprint of
    the model that `decode` belongs to. Raises `UserError` where `out` holds groups of other settings, for scores that
    the groups have already, and what the judge raises.
    """
    check_identifiers(store)
    prompt_of = judged_prompts(settings, store)
    twice = sorted(store.records.score_names() & judge.higher_is_better.keys())
    if twice:
        raise UserError(f"{store.folder}: its groups have {', '.join(twice)} already; leave the judge out")
    digests = {"groups": store.digest, "judges": judge.version, "model": decoder}
    if settings.prompts is not None:
        digests["prompts"] = digest_at(settings.prompts)
    # as score.yaml names them, and pairs.yaml
    inputs = digests | {f"score.{name}": digest for name, digest in digests.items()}
    samples = Samples.all_of(store)
    planned = samples.shards(settings.shard_size)
    notes = NotedDigests(out)
    judged = False
    done = 0
    with worker.writing(out):
        with worker.in_turn(out / SETTINGS):
            runfile.claim(out / SETTINGS, settings, CONVERTER, ["batch_size"], inputs, [SHARDS])
        files = [(shard_path(out, number), number) for number in range(len(planned))]
        for path, number, task in worker.turns(files):
            kind, records = planned[number]
            if task == "look":
                made_before(path, records, scored=True)
            if task == "make":
                judged = True
                latents = samples.latents(kind, records)
                images = latents.flatten(0, 1)
                scored = list(_scored(images, records, judge, decode, prompt_of, settings.batch_size))
                write_shard(out, number, scored, latents, samples.masks(kind, records))
                notes.read([path])
            done += len(records)
            yield done
        notes.keep()
        left = [number for path, number in files if not path.exists()]
        if left:
            log.info(f"{out}: {len(left)} of {len(files)} files are left to other parts")
            return
        # of workers that end together each finds all files there, and writes the same
        every = chain.from_iterable(made_before(path, planned[number][1], scored=True) for path, number in files)
        better = {name: _BETTER[is_higher] for name, is_higher in judge.higher_is_better.items()}
        sections = {**origin(store), "scores": {**directions(store), **better}, "score": settings}
        with worker.in_turn(out / MANIFEST):
            begin(out, sections, CONVERTER, decoder, every, (), inputs, masked=samples.masked, has_shards=True)
    if not judged:
        log.info(f"{out}: all groups were scored already")


def _scored(
    latents: Tensor,
    records: Sequence[GroupRecord],
    judge: Judge,
    decode: Decode,
    prompt_of: Callable[[str], Prompt],
    batch_size: int,
) -> Iterator[GroupRecord]:
    """Each record with its new scores, of the latents of all records' samples, one sample after another."""
    wanted: list[Prompt] = []
    for record in records:
        wanted += [prompt_of(record.prompt)] * record.num_samples
    values: dict[str, list[float]] = {name: [] for name in judge.higher_is_better}
    at_once = images_at_once(judge, batch_size)
    for start in range(0, len(wanted), at_once):
        batch = slice(start, start + at_once)
        marks = marks_of(judge, latents[batch], wanted[batch], in_batches(decode, batch_size))
        for name in values:
            values[name] += marks[name].values.tolist()
    first = 0
    for record in records:
        last = first + record.num_samples
        scores = {name: tuple(numbers[first:last]) for name, numbers in values.items()}
        yield replace(record, scores={**record.scores, **scores})
        first = last
