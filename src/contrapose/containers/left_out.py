"""What cannot be used, and why: a pair, a photograph or a prompt that is left out never stops the others, nor vanishes.

Code that works on one thing raises `Skip`; `attempt` is the one place that catches it. What was left out is written to
one file beside the result, a line each, and told as a table of counts.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

from contrapose.files import replacing

SKIPPED = "skipped.jsonl"
P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class LeftOut:
    """One thing that is left out: its name within its source, what kind of reason, in a word or two, and the reason."""

    name: str
    kind: str
    reason: str


class Skip(Exception):
    """Why the thing at hand cannot be used; `kind` is the word or two under which it is counted."""

    def __init__(self, reason: str, kind: str = "unusable"):
        super().__init__(reason)
        self.kind = kind

    def of(self, name: str) -> LeftOut:
        """The thing of this name, left out for this reason."""
        return LeftOut(name, self.kind, str(self))


def attempt(name: str, make: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | LeftOut:
    """What `make` gives, or the thing of this name left out when it raises `Skip`."""
    try:
        return make(*args, **kwargs)
    except Skip as skip:
        return skip.of(name)


def write_left_out(folder: Path, left_out: Iterable[LeftOut]) -> Counter[str]:
    """Write `skipped.jsonl` anew, a line each with name, kind and reason; how many there are of each kind."""
    counts: Counter[str] = Counter()
    # half a character, as names of files and JSON can hold it, becomes its escape, which is JSON again
    with replacing(folder / SKIPPED) as aside, aside.open("w", encoding="utf-8", errors="backslashreplace") as file:
        for entry in left_out:
            file.write(json.dumps(asdict(entry), ensure_ascii=False) + "\n")
            counts[entry.kind] += 1
    return counts


def count_left_out(folder: Path) -> Counter[str]:
    """How many things `skipped.jsonl` names of each kind."""
    with (folder / SKIPPED).open(encoding="utf-8") as file:
        return Counter(json.loads(line)["kind"] for line in file)


def told_counts(counts: Counter[str]) -> str:
    """The counts in one line, the most frequent kind first: `12 tie, 3 unreadable`."""
    return ", ".join(f"{num} {kind}" for kind, num in counts.most_common())
