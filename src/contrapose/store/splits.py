"""Which prompts are tuned on, and which are reported on: decided by their words alone, the same on every machine.

A prompt's place does not depend on the order of its file, nor on what else stands in it, so that a list that grows, or
a second one that repeats some of it, moves no prompt from dev to test.
"""

from __future__ import annotations

import json
import tempfile
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import compress, islice
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from contrapose.containers.left_out import LeftOut
from contrapose.errors import UserError
from contrapose.files import check_file, naming_a_full_disk, one_writer, write_lines
from contrapose.ranges import Count, Seed, Share, checked
from contrapose.seeds import seed_of
from contrapose.store.prompts import Prompt, canonical, iter_listed
from contrapose.store.record_table import Numbers, first_of_each, key_of

_AT_ONCE = 4096  # prompts that are looked up together


@dataclass(frozen=True)
@checked
class Splitting:
    """How a list of prompts is divided, and where to."""

    out_test: Path
    """File to write (.jsonl) with the prompts to report on."""
    out_dev: Path | None = None
    """File to write (.jsonl) with the prompts to tune on; when unset, all go to --out-test."""
    dev_share: Share = 0.2
    """Chance of each prompt to be in dev; of no use without --out-dev."""
    num_prompts: Count | None = None
    """How many prompts to keep of all, chosen by hash and not by their order; all when unset."""
    column: str | None = None
    """Field that holds the prompts; prompt, Prompt, caption and the like when unset."""
    seed: Seed = 0
    """Seed of the division; another one divides otherwise."""

    def __post_init__(self) -> None:
        for name in ("out_test", "out_dev"):
            path = getattr(self, name)
            if path is not None and path.suffix.lower() != ".jsonl":
                raise UserError(f"{name} {path}: lines of JSON are written; name it .jsonl")
        if self.out_dev == self.out_test:
            raise UserError(f"out_dev {self.out_dev}: is --out-test too; name another file")


class Division(NamedTuple):
    """Of prompts in the order of their list, which ones are of each part; repeated ones are of none."""

    num_repeated: int
    dev: Numbers
    test: Numbers


class WrittenPart(NamedTuple):
    """A file of prompts, and whether it was written; False where the same was there already."""

    num_prompts: int
    is_new: bool


class WrittenSplit(NamedTuple):
    """What became of a list of prompts."""

    num_read: int
    num_repeated: int
    parts: Mapping[Path, WrittenPart]


def split_prompts(source: Path, settings: Splitting) -> WrittenSplit:
    """Write a list's prompts, repeated ones left out, into a file to report on and one to tune on.

    `source` is a file or folder in any form that `read_prompts` takes. Raises `UserError` for one that cannot be read,
    a file that is, or would be, among what is read, and a part that would hold no prompts; nothing is written then.
    """
    outs = [out for out in (settings.out_dev, settings.out_test) if out is not None]
    for out in outs:
        check_file(out)
        if out.resolve().is_relative_to(source.resolve()):
            raise UserError(f"{out}: is, or would be, among what is read; name a file elsewhere")
    # the lines wait in a file, since nothing is written before all of them have been read
    with tempfile.TemporaryFile() as lines, naming_a_full_disk(Path(tempfile.gettempdir())):
        prompts = _noting(iter_listed(source, settings.column), lines)
        dev_share = settings.dev_share if settings.out_dev else 0.0
        division = divide(prompts, dev_share, settings.num_prompts, settings.seed)
        to_write = {settings.out_test: division.test}
        if settings.out_dev:
            to_write[settings.out_dev] = division.dev
        for out, part in to_write.items():
            if not part.any():
                raise UserError(f"{out}: would hold no prompts; choose another --dev-share, or more prompts")
        written: dict[Path, WrittenPart] = {}
        for out, part in to_write.items():
            with one_writer(out, beside=True):
                written[out] = WrittenPart(int(part.sum()), write_lines(out, partial(_those, lines, part)))
    return WrittenSplit(len(division.test), division.num_repeated, written)


def _noting(rows: Iterable[Prompt | LeftOut], lines: IO[bytes]) -> Iterator[Prompt]:
    """The prompts among the rows of a list, each of which is written as a line of JSON that `read_prompts` reads."""
    for row in rows:
        if isinstance(row, Prompt):
            line = json.dumps({"prompt": row.text, **row.fields}, ensure_ascii=False)
            lines.write(f"{line}\n".encode("utf-8", "replace"))
            yield row


def _those(lines: IO[bytes], part: Numbers) -> Iterator[bytes]:
    lines.seek(0)
    return compress(lines, part)


def divide(prompts: Iterable[Prompt], dev_share: float, num: int | None = None, seed: int = 0) -> Division:
    """Which prompts, gone through once, are dev and which test: of those whose canonical texts are the same, the first.

    Of these so many as `num` are kept, by the smallest hashes. A prompt is in dev where u < dev_share, u in [0, 1)
    being drawn by the hash of its words.
    """
    keys = array("Q")
    chances = array("d")
    ranks = array("d")
    for prompt in prompts:
        text = canonical(prompt.text)
        keys.append(key_of(text))
        chances.append(_draw("split", text, seed))
        if num is not None:
            ranks.append(_draw("choose", text, seed))
    distinct = first_of_each(np.array(keys))
    kept = distinct
    if num is not None:
        kept = distinct[np.argsort(np.array(ranks)[distinct], kind="stable")[:num]]
    is_kept = np.zeros(len(keys), dtype=bool)
    is_kept[kept] = True
    is_dev = np.array(chances) < dev_share
    return Division(len(keys) - len(distinct), is_kept & is_dev, is_kept & ~is_dev)


def shared_prompts(prompts: Iterable[Prompt], reserved: Iterable[Prompt]) -> list[Prompt]:
    """Those of the prompts that stand among the reserved ones too, the first of each text; both are gone through once.

    Capitals and blanks do not count.
    """
    keys_of_reserved = np.unique(np.array(array("Q", map(_key, reserved))))
    first: dict[int, Prompt] = {}
    waiting = iter(prompts)
    while part := list(islice(waiting, _AT_ONCE)):
        keys = np.array([_key(prompt) for prompt in part], np.uint64)
        places = np.searchsorted(keys_of_reserved, keys).clip(max=len(keys_of_reserved) - 1)
        is_shared = keys_of_reserved[places] == keys if len(keys_of_reserved) else np.zeros(len(keys), bool)
        for place in np.flatnonzero(is_shared).tolist():
            first.setdefault(int(keys[place]), part[place])
    return list(first.values())


def by_canonical(prompts: Iterable[Prompt]) -> dict[str, Prompt]:
    """By canonical text, the first prompt of it."""
    first: dict[str, Prompt] = {}
    for prompt in prompts:
        first.setdefault(canonical(prompt.text), prompt)
    return first


def describe_prompts(prompts: Iterable[Prompt]) -> list[str]:
    """What a list of prompts holds, in plain lines: how many, how many twice, by category, and how long they are.

    They are gone through once.
    """
    keys = array("Q")
    num_words = array("L")
    tags: Counter[str | None] = Counter()
    fields: Counter[str] = Counter()
    for prompt in prompts:
        keys.append(_key(prompt))
        num_words.append(len(prompt.text.split()))
        tags[prompt.tag] += 1
        fields.update(prompt.fields.keys())  # a mapping itself would count its values
    words = np.sort(np.array(num_words))
    lines = [f"{len(keys)} prompts, {len(np.unique(np.array(keys)))} of them different"]
    if set(tags) != {None}:
        for tag, number in tags.items():
            lines.append(f"  {tag or 'without a category'}: {number}")
    lines.append(f"words: {words[0]} to {words[-1]}, half of the prompts up to {words[(len(words) - 1) // 2]}")
    if fields:
        lines.append(f"fields: {', '.join(fields)}")
    return lines


def _key(prompt: Prompt) -> int:
    """64 bits by which prompts of one canonical text are known: two texts of a million share them by 3 in 10^8."""
    return key_of(canonical(prompt.text))


def _draw(use: str, text: str, seed: int) -> float:
    """A number in [0, 1) by 53 bits, all that a float holds, over the use, the seed and the canonical text."""
    return seed_of(use, seed, text, bits=53, between=" ") / 2**53
