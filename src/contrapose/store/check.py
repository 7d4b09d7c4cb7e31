"""Is a folder of groups sound? Counts, and everything that would spoil a run."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
import torch

from contrapose.store.groups import GroupStore, sample_name
from contrapose.store.record_table import Records, RecordTable, repeated

_SHOWN = 3  # examples named for each kind of problem
_KINDS = {1: "single samples", 2: "pairs"}
_NOT_FINITE = "latents that are not finite"
_CHANGED = "files whose bytes changed and whose times did not"
_SAME_AS_WINNER = "losers identical to their winner"
_SAME_AS_ANOTHER = "samples identical to another of their group"
TooLong = Callable[[Iterable[str]], list[str]]


@dataclass
class Findings:
    """The result of a check: `facts` are counts, `problems` spoil a run, `remarks` may be intended."""

    facts: list[str] = field(default_factory=list)
    problems: dict[str, list[str]] = field(default_factory=dict)
    remarks: dict[str, list[str]] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """The findings, a line each."""
        return [*self.facts, *self.problem_lines(), *self.remark_lines()]

    def problem_lines(self) -> list[str]:
        """What spoils a run, a line for each kind."""
        return [f"problem: {_with_examples(name, names)}" for name, names in self.problems.items()]

    def remark_lines(self) -> list[str]:
        """What may be intended, a line for each kind."""
        return [f"remark: {_with_examples(name, names)}" for name, names in self.remarks.items()]


def look_at_records(store: GroupStore, too_long: TooLong | None = None) -> Findings:
    """What the records alone tell, which takes no time however large the latents are; arguments as of `check_pairs`."""
    records = store.records
    problems = {
        "not the groups that were planned": [store.flaw] if store.flaw else [],
        **_problems_of_records(records),
    }
    # the noise goes by prompt and seed, so that these are the same images twice; likes of one group share both
    several = np.flatnonzero(np.abs(records.kinds()) > 1)
    origin = [records.keys("prompt"), records.keys("degraded"), records.seeds()]
    suspects = several[repeated(*(column[several] for column in origin))]
    origins = [(record.prompt, record.degraded, record.seed) for record in records.of(suspects)]
    prompts = [prompt for (prompt, _, _), count in Counter(origins).items() if count > 1]
    remarks = {"groups that repeat another": prompts}
    if too_long:
        remarks["prompts longer than the text encoder reads"] = too_long(records.distinct_texts(["prompt"]))
    facts = [_count(store), *_said(records)]
    num_masked = int(store.masked().sum())
    if num_masked:
        facts.append(f"masks: {num_masked} of {len(store)} groups say where they differ")
    return Findings(facts, _with_any(problems), _with_any(remarks))


def check_pairs(
    store: GroupStore, too_long: TooLong | None = None, progress: Callable[[int], None] = lambda done: None
) -> Findings:
    """Look at every record and latent; `progress` is told the number of groups whose latents have been seen.

    `too_long` tells which prompts the text encoder would not read to the end; without it that check is left out.
    """
    findings = look_at_records(store, too_long)
    problems: dict[str, list[str]] = {_NOT_FINITE: []}
    same: dict[str, list[int]] = {_SAME_AS_WINNER: [], _SAME_AS_ANOTHER: []}
    done = 0
    for latents in store.latents():
        num_samples = latents.shape[1]
        for row, place in (~latents.isfinite().flatten(2).all(2)).nonzero().tolist():
            record = store.records[done + row]
            problems[_NOT_FINITE].append(f"{record.id} {sample_name(record, place)}")
        # NaN equals nothing: what is not finite is told above alone
        is_same = torch.zeros(len(latents), dtype=torch.bool)
        for first, second in combinations(range(num_samples), 2):
            is_same |= (latents[:, first] == latents[:, second]).flatten(1).all(1)
        kind = _SAME_AS_WINNER if num_samples == 2 else _SAME_AS_ANOTHER
        same[kind] += (done + is_same.nonzero().flatten()).tolist()
        done += len(latents)
        progress(done)
    for kind, rows in same.items():
        problems[kind] = list(store.records.texts("id", np.array(rows, np.int64)))
    problems[_CHANGED] = store.changed_shards()
    findings.problems.update(_with_any(problems))
    return findings


def _with_any(names_by_kind: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """The kinds of which there are any."""
    return {kind: names for kind, names in names_by_kind.items() if names}


def _problems_of_records(records: Records) -> dict[str, list[str]]:
    kinds = {name: np.zeros(len(records), dtype=bool) for name in ("empty", "bare", "same")}
    for index, (prompt, degraded) in enumerate(zip(records.texts("prompt"), records.texts("degraded"), strict=True)):
        kinds["empty"][index] = not prompt.strip()
        kinds["bare"][index] = not degraded.strip()
        kinds["same"][index] = degraded.split() == prompt.split()
    if kinds["bare"].all():  # imported pairs have no degraded prompts at all
        kinds["bare"][:] = False
    names = {kind: list(records.texts("id", np.flatnonzero(is_so))) for kind, is_so in kinds.items()}
    return {
        "identifiers used twice": records.repeated_texts("id"),
        "empty prompts": names["empty"],
        "no degraded prompt, while other pairs have one": names["bare"],
        "degraded prompts equal to their prompt": names["same"],
    }


def _count(store: GroupStore) -> str:
    """How many groups there are, by their number of samples where several kinds are mixed."""
    origin = f"of {store.records.num_distinct('prompt')} prompts in {len(store.shards)} shards"
    sizes, counts = np.unique(np.abs(store.records.kinds()), return_counts=True)
    kinds = [f"{count} {_kind(size)}" for size, count in zip(sizes.tolist(), counts.tolist(), strict=True)]
    if len(kinds) == 1:
        return f"{kinds[0]} {origin}"
    return f"{len(store)} groups {origin}: {', '.join(kinds)}"


def _kind(num_samples: int) -> str:
    return _KINDS.get(num_samples, f"groups of {num_samples}")


def _said(records: RecordTable) -> list[str]:
    """A line for each kind of group, fewest samples first: how its labels divide it; and one for each score."""
    verdicts: dict[int, Counter[str]] = {}
    scores: dict[str, _Range] = {}
    for labels, numbers_by_score, num in records.verdicts():
        verdicts.setdefault(len(labels), Counter())[_verdict(labels)] += num
        for name, numbers in numbers_by_score.items():
            scores.setdefault(name, _Range()).add(numbers, num)
    lines: list[str] = []
    for size in sorted(verdicts):
        counts = verdicts[size].most_common()
        lines.append(f"{_kind(size)}: {', '.join(f'{count} {verdict}' for verdict, count in counts)}")
    for name, reach in sorted(scores.items()):
        span = f"{reach.least:.4g} to {reach.most:.4g}"
        lines.append(f"score {name}: {span}, in {reach.num_groups} of {len(records)} groups")
    return lines


@dataclass
class _Range:
    """Of a score, its range and how many groups have it."""

    least: float = math.inf
    most: float = -math.inf
    num_groups: int = 0

    def add(self, numbers: Sequence[float], num_groups: int) -> None:
        self.least = min(self.least, *numbers)
        self.most = max(self.most, *numbers)
        self.num_groups += num_groups


def _verdict(labels: Sequence[float]) -> str:
    """What a group's labels say, in one word or two."""
    if len(labels) > 1 and min(labels) == max(labels):
        return "tied"
    if not set(labels) <= {0, 1}:
        return "in shares"
    if len(labels) == 1:
        return "liked" if labels[0] else "disliked"
    return "decided"


def _with_examples(name: str, examples: Sequence[str]) -> str:
    more = ", ..." if len(examples) > _SHOWN else ""
    return f"{name}: {len(examples)} ({', '.join(examples[:_SHOWN])}{more})"
