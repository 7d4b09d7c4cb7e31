"""How a score of samples goes with others of the same groups: what it would choose first and last of each.

contrapose pairs draw --model MODEL --prompts dev.jsonl --out groups --samples-per-prompt 4
contrapose pairs score groups --prompts dev.jsonl --judges self-confidence shapes --out scored
python studies/agreement.py scored --by self-confidence --of correct roughness
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from itertools import combinations
from pathlib import Path
from statistics import mean

from contrapose.store.groups import GroupStore

Scores = tuple[Sequence[float], Sequence[float]]
"""Of one group's samples: the scores that choose, and those that are looked at."""


def agreement(groups: Iterable[Scores]) -> str:
    """The mean of what is chosen first, last and of all, and how often it is the larger of two that is preferred.

    The first of equals is chosen; two samples that are equal in either score are not counted.
    """
    firsts, lasts, everything = [], [], []
    num_preferred = 0
    num_different = 0
    for by, of in groups:
        firsts.append(of[by.index(max(by))])
        lasts.append(of[by.index(min(by))])
        everything += of
        for one, other in combinations(zip(by, of, strict=True), 2):
            if one[0] != other[0] and one[1] != other[1]:
                num_different += 1
                num_preferred += (one[0] > other[0]) == (one[1] > other[1])
    means = f"{mean(firsts):.3f} first, {mean(lasts):.3f} last, {mean(everything):.3f} of all"
    return f"{means}; more of it is preferred in {num_preferred} of {num_different} pairs that differ"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("groups", type=Path, help="folder that 'contrapose pairs score' made")
    parser.add_argument("--by", required=True, help="the score that chooses")
    parser.add_argument("--of", nargs="+", required=True, help="scores that are looked at")
    settings = parser.parse_args()
    records = GroupStore(settings.groups).records
    known = records[0].scores
    for name in (settings.by, *settings.of):
        if name not in known:
            raise SystemExit(f"{name} is no score of these groups (known: {', '.join(known)})")
    for name in settings.of:
        print(f"{name}: {agreement((record.scores[settings.by], record.scores[name]) for record in records)}")
