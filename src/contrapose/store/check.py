"""Is a folder of pairs sound? Counts, and everything that would spoil a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from contrapose.store.pairs import PairStore

_SHOWN = 3  # examples named for each kind of problem


@dataclass
class Findings:
    """What a check found; `problems` spoil a run, `remarks` may be meant."""

    num_pairs: int
    num_prompts: int
    num_shards: int
    problems: dict[str, list[str]] = field(default_factory=dict)
    remarks: dict[str, list[str]] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """The findings, a line each."""
        told = [f"{self.num_pairs} pairs of {self.num_prompts} prompts in {self.num_shards} shards"]
        for kind, found in (("problem", self.problems), ("remark", self.remarks)):
            told += [
                f"{kind}: {name}: {len(w)} ({', '.join(w[:_SHOWN])}{', ...' if len(w) > _SHOWN else ''})"
                for name, w in found.items()
            ]
        return told


TooLong = Callable[[Iterable[str]], list[str]]


def check(store: PairStore, too_long: TooLong | None = None) -> Iterator[int | Findings]:
    """Look at every record and latent, yielding the number of latents seen and at the end the findings.

    `too_long` tells which prompts the text encoder would not read to the end; without it that check is left out.
    """
    records = store.records
    findings = Findings(len(records), len({r.prompt for r in records}), len(store.shards))
    bare = [r.id for r in records if not r.degraded.strip()]  # all of them, where pairs were imported
    problems = {
        "not the pairs that were planned": [store.flaw] if store.flaw else [],
        "identifiers used twice": [i for i, n in Counter(r.id for r in records).items() if n > 1],
        "empty prompts": [r.id for r in records if not r.prompt.strip()],
        "no degraded prompt, while other pairs have one": bare if len(bare) < len(records) else [],
        "degraded prompts equal to their prompt": [r.id for r in records if r.degraded.split() == r.prompt.split()],
    }
    seen = Counter((r.prompt, r.degraded, r.seed) for r in records)
    remarks = {"pairs that repeat another": [key[0] for key, n in seen.items() if n > 1]}
    if too_long:
        remarks["prompts longer than the text encoder reads"] = too_long(dict.fromkeys(r.prompt for r in records))
    broken: list[str] = []
    same: list[str] = []
    first = None
    for count, (index, name, latent) in enumerate(store.latents(), 1):
        if not latent.isfinite().all():
            broken.append(f"{records[index].id} {name}")
        if name == "winner":
            first = latent
        elif first is not None and bool((first == latent).all()):
            same.append(records[index].id)
        yield count
    problems["latents that are not finite"] = broken
    problems["losers identical to their winner"] = same
    findings.problems = {name: found for name, found in problems.items() if found}
    findings.remarks = {name: found for name, found in remarks.items() if found}
    yield findings
