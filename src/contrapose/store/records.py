"""The record of a group, beside its latents: its prompt, and a label and named scores for each of its samples."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from contrapose.files import is_writable

Sample = int | str
"""A sample of a group: by its place, by its name (`sample 1` is the first), by its rank (`rank 1` is the best), or
`winner` and `loser`, best and worst."""
_NTH = re.compile(r"(sample|rank) ([1-9]\d*)")
_SUM_ERROR = 1e-6  # shares that were rounded still count as shares of one whole


@dataclass(frozen=True)
class GroupRecord:
    """A prompt with n samples: two are a pair, one is a like or a dislike, more are a ranking.

    Labels go from 0 to 1, and higher is better. The two of a pair are shares of preference that sum to one: (1, 0) is
    decided and (0.5, 0.5) a tie. A like is (1,) and a dislike (0,). Scores may be of any scale.
    """

    id: str
    prompt: str
    degraded: str  # the prompt that the loser was drawn from; empty where all samples have the same
    seed: int
    labels: tuple[float, ...]
    scores: Mapping[str, tuple[float, ...]] = field(default_factory=dict, hash=False)

    @classmethod
    def pair(cls, id: str, prompt: str, degraded: str, seed: int, preference: float = 1.0) -> GroupRecord:
        """A winner and a loser, in this order; `preference` is the winner's share."""
        return cls(id, prompt, degraded, seed, (preference, 1 - preference))

    @classmethod
    def undecided(cls, id: str, prompt: str, seed: int, num_samples: int) -> GroupRecord:
        """Samples of one prompt of which nobody has said yet which is better: a tie of all."""
        return cls(id, prompt, "", seed, (0.5,) * num_samples)

    def to_json(self) -> list[Any]:
        """All of it in what JSON holds."""
        return list(vars(self).values())

    @classmethod
    def from_json(cls, said: list[Any]) -> GroupRecord:
        """The record of which this was said."""
        id, prompt, degraded, seed, labels, scores = said
        return cls(id, prompt, degraded, seed, tuple(labels), {name: tuple(values) for name, values in scores.items()})

    @property
    def num_samples(self) -> int:
        return len(self.labels)

    @property
    def preference(self) -> float:
        """The winner's share of preference over the loser: a pair's own; of more samples, the best wins or all tie.

        Of a lone sample, the share of the side that it is on.
        """
        if self.num_samples == 1:
            return max(self.labels[0], 1 - self.labels[0])
        if self.num_samples > 2:
            return 0.5 if self.tied else 1.0
        return max(self.labels)

    @property
    def liked(self) -> bool:
        """Whether a lone sample is a like rather than a dislike: it is a winner without a loser, or the other way."""
        return self.labels[0] >= 0.5

    @property
    def tied(self) -> bool:
        """Whether there are several samples and none is better than another."""
        return self.num_samples > 1 and min(self.labels) == max(self.labels)

    def as_drawn(self, num: int, judge: str | None = None) -> GroupRecord:
        """The first so many samples, by what a judge says of them: the best of them 1, the worst 0, others between.

        Without a judge the labels say so themselves; where all are alike, all are halves.
        """
        quality = self.labels if judge is None else self.scores[judge]
        quality = quality[:num]
        worst = min(quality)
        reach = max(quality) - worst
        labels = [0.5] * len(quality)
        if reach:
            labels = [(value - worst) / reach for value in quality]
        scores = {name: numbers[:num] for name, numbers in self.scores.items()}
        return replace(self, labels=tuple(labels), scores=scores)

    def place(self, sample: Sample) -> int:
        """Where a sample stands in the group; of equal ones the winner is the first and the loser the last.

        Raises `ValueError` for a sample that the group does not have: a like has no loser, and a dislike no winner.
        """
        if not self.num_samples:
            raise ValueError(f"record {self.id}: is a prompt alone, without samples")
        if sample in ("winner", "loser") and self.num_samples == 1:
            if (sample == "winner") != self.liked:
                kind = "a like" if self.liked else "a dislike"
                raise ValueError(f"record {self.id}: is {kind}, a single sample, and has no {sample}")
            return 0
        if sample == "winner":
            return self.labels.index(max(self.labels))
        if sample == "loser":
            # searched from the end: of equal samples the last
            return self.num_samples - 1 - self.labels[::-1].index(min(self.labels))
        nth = _NTH.fullmatch(sample) if isinstance(sample, str) else None
        place = int(nth[2]) - 1 if nth else sample
        if not isinstance(place, int) or not 0 <= place < self.num_samples:
            raise ValueError(f"record {self.id}: has no {sample} among its {self.num_samples} samples")
        if nth and nth[1] == "rank":
            # stable: of equal samples the first has the better rank
            return sorted(range(self.num_samples), key=lambda other: -self.labels[other])[place]
        return place


FIELDS = tuple(GroupRecord.__dataclass_fields__)
OLD_FIELDS = (*FIELDS[:4], "preference")  # of format 2, which held pairs alone


class RecordsDigest:
    """A digest of records in the order of their shards, by which `pairs.yaml` knows them, as they come."""

    def __init__(self) -> None:
        self.num = 0
        self._digest = hashlib.sha256()

    def add(self, record: GroupRecord) -> None:
        values = list(vars(record).values())  # in the order of the fields, whose names may change
        self._digest.update(json.dumps(values, sort_keys=True).encode() + b"\n")
        self.num += 1

    def __str__(self) -> str:
        return self._digest.hexdigest()[:16]


def count_and_digest(records: Iterable[GroupRecord]) -> tuple[int, str]:
    """How many records there are, and their digest."""
    digest = RecordsDigest()
    for record in records:
        digest.add(record)
    return digest.num, str(digest)


def old_digest(records: Iterable[GroupRecord]) -> str:
    """The digest by which a `pairs.yaml` of format 2 knows its pairs."""
    digest = hashlib.sha256()
    for record in records:
        values = [record.id, record.prompt, record.degraded, record.seed, record.labels[0]]
        digest.update(json.dumps(values).encode() + b"\n")
    return digest.hexdigest()[:16]


def parse_record(entry: Any) -> GroupRecord:
    """One record of a shard's header; raises `ValueError` for fields and values that no command writes."""
    if not isinstance(entry, dict) or set(entry) != set(FIELDS):
        raise ValueError(f"is not an object of {', '.join(FIELDS)}")
    _check_origin(entry)
    labels = _labels(entry["labels"])
    return GroupRecord(
        entry["id"], entry["prompt"], entry["degraded"], entry["seed"], labels, _scores(entry["scores"], len(labels))
    )


def parse_old_record(entry: Any) -> GroupRecord:
    """One record of a shard of format 2; raises `ValueError` as `parse_record` does."""
    if not isinstance(entry, dict) or set(entry) != set(OLD_FIELDS):
        raise ValueError(f"is not an object of {', '.join(OLD_FIELDS)}")
    _check_origin(entry)
    if not _is_share(entry["preference"]):
        raise ValueError(f"its preference is {_shown(entry['preference'])}, where a share from 0 to 1 is wanted")
    return GroupRecord.pair(**entry)


def _check_origin(entry: Mapping[str, Any]) -> None:
    """Raise `ValueError` for an identifier or text that is not a text, and for a seed out of its range."""
    for name in ("id", "prompt", "degraded"):
        text = entry[name]
        if not isinstance(text, str):
            raise ValueError(f"its {name} is {_shown(text)}, where a text is wanted")
        if not is_writable(text):
            raise ValueError(f"its {name} holds a NUL or half of a surrogate pair")
    seed = entry["seed"]
    if type(seed) is not int or not 0 <= seed < 2**63:
        raise ValueError(f"its seed is {_shown(seed)}, where a whole number from 0 to 2**63 - 1 is wanted")


def _labels(value: Any) -> tuple[float, ...]:
    if not isinstance(value, list) or not value or not all(map(_is_share, value)):
        raise ValueError(f"its labels are {_shown(value)}, where a list of numbers from 0 to 1 is wanted")
    if len(value) == 2 and abs(sum(value) - 1) > _SUM_ERROR:
        raise ValueError(f"its labels are {_shown(value)}, and the two of a pair sum to 1")
    return tuple(value)


def _scores(value: Any, num_samples: int) -> dict[str, tuple[float, ...]]:
    if not isinstance(value, dict) or not all(map(is_writable, value)):
        raise ValueError(f"its scores are {_shown(value)}, where an object of lists is wanted")
    for name, numbers in value.items():
        if not isinstance(numbers, list) or len(numbers) != num_samples or not all(map(_is_finite, numbers)):
            raise ValueError(f"its {name} is {_shown(numbers)}, where a list of {num_samples} numbers is wanted")
    return {name: tuple(numbers) for name, numbers in value.items()}


def _is_share(value: Any) -> bool:
    return _is_finite(value) and 0 <= value <= 1


def _is_finite(value: Any) -> bool:
    """Whether a value of JSON is a finite number; `true` is not a number, nor is a whole one too large for a float."""
    try:
        return type(value) in (int, float) and math.isfinite(value)
    except OverflowError:
        return False


def _shown(value: Any) -> str:
    return repr(value)[:100]
