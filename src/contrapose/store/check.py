"""Is a folder of groups sound? Counts, and everything that would spoil a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

from contrapose.store.groups import GroupStore, sample_name
from contrapose.store.records import GroupRecord

_SHOWN = 3  # examples named for each kind of problem
_KINDS = {1: "single samples", 2: "pairs"}
_NOT_FINITE = "latents that are not finite"
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
    problems = {
        "not the groups that were planned": [store.flaw] if store.flaw else [],
        **_problems_of_records(store.records),
    }
    # the noise goes by prompt and seed, so that these are the same images twice
    origins = Counter((record.prompt, record.degraded, record.seed) for record in store.records)
    remarks = {"groups that repeat another": [prompt for (prompt, _, _), count in origins.items() if count > 1]}
    if too_long:
        prompts = dict.fromkeys(record.prompt for record in store.records)
        remarks["prompts longer than the text encoder reads"] = too_long(prompts)
    facts = [_count(store), *_labels(store.records), *_scores(store.records)]
    num_masked = sum(store.has_mask(index) for index in range(len(store)))
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
    problems: dict[str, list[str]] = {_NOT_FINITE: [], _SAME_AS_WINNER: [], _SAME_AS_ANOTHER: []}
    for index, latents in store.latents():
        record = store.records[index]
        broken = [place for place, latent in enumerate(latents) if not latent.isfinite().all()]
        problems[_NOT_FINITE] += [f"{record.id} {sample_name(record, place)}" for place in broken]
        # NaN equals nothing: what is not finite is told above alone
        if any(bool((first == second).all()) for first, second in combinations(latents, 2)):
            problems[_SAME_AS_WINNER if len(latents) == 2 else _SAME_AS_ANOTHER].append(record.id)
        progress(index + 1)
    findings.problems.update(_with_any(problems))
    return findings


def _with_any(names_by_kind: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """The kinds of which there are any."""
    return {kind: names for kind, names in names_by_kind.items() if names}


def _problems_of_records(records: Sequence[GroupRecord]) -> dict[str, list[str]]:
    uses = Counter(record.id for record in records)
    repeated = [name for name, count in uses.items() if count > 1]
    empty = [record.id for record in records if not record.prompt.strip()]
    bare = [record.id for record in records if not record.degraded.strip()]
    if len(bare) == len(records):  # imported pairs have no degraded prompts at all
        bare = []
    same = [record.id for record in records if record.degraded.split() == record.prompt.split()]
    return {
        "identifiers used twice": repeated,
        "empty prompts": empty,
        "no degraded prompt, while other pairs have one": bare,
        "degraded prompts equal to their prompt": same,
    }


def _count(store: GroupStore) -> str:
    """How many groups there are, by their number of samples where several kinds are mixed."""
    origin = f"of {len({record.prompt for record in store.records})} prompts in {len(store.shards)} shards"
    kinds = [f"{len(records)} {kind}" for kind, records in _by_kind(store.records).items()]
    if len(kinds) == 1:
        return f"{kinds[0]} {origin}"
    return f"{len(store)} groups {origin}: {', '.join(kinds)}"


def _labels(records: Sequence[GroupRecord]) -> list[str]:
    """A line for each kind of group: how its labels divide it."""
    lines = []
    for kind, same in _by_kind(records).items():
        counts = Counter(_verdict(record) for record in same).most_common()
        lines.append(f"{kind}: {', '.join(f'{count} {verdict}' for verdict, count in counts)}")
    return lines


def _verdict(record: GroupRecord) -> str:
    """What a group's labels say, in one word or two."""
    if record.tied:
        return "tied"
    if not set(record.labels) <= {0, 1}:
        return "in shares"
    if record.num_samples == 1:
        return "liked" if record.labels[0] else "disliked"
    return "decided"


def _scores(records: Sequence[GroupRecord]) -> list[str]:
    """A line for each score: how many groups have it, and its range."""
    values: dict[str, list[float]] = {}
    groups: Counter[str] = Counter()
    for record in records:
        for name, numbers in record.scores.items():
            values.setdefault(name, []).extend(numbers)
            groups[name] += 1
    return [
        f"score {name}: {min(numbers):.4g} to {max(numbers):.4g}, in {groups[name]} of {len(records)} groups"
        for name, numbers in sorted(values.items())
    ]


def _by_kind(records: Iterable[GroupRecord]) -> dict[str, list[GroupRecord]]:
    """The records by what their number of samples is called, fewest samples first."""
    by_num_samples: dict[int, list[GroupRecord]] = {}
    for record in records:
        by_num_samples.setdefault(record.num_samples, []).append(record)
    return {_KINDS.get(num, f"groups of {num}"): by_num_samples[num] for num in sorted(by_num_samples)}


def _with_examples(name: str, examples: Sequence[str]) -> str:
    more = ", ..." if len(examples) > _SHOWN else ""
    return f"{name}: {len(examples)} ({', '.join(examples[:_SHOWN])}{more})"
