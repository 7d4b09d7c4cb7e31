"""Records that are made when they are asked for: the same as a list of them, in whatever way they are chosen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from contrapose.store import record_table
from contrapose.store.chosen_records import ChosenRecords, FirstSamples
from contrapose.store.record_table import RecordTable, first_of_each, key_of, kind_of
from contrapose.store.records import GroupRecord

PROMPTS = ("b", "é", "z", "", "a b", "ab", "猫", "\U0001f600", "\uffff", "a\u2028b")


def _records(num: int, first: int = 0) -> list[GroupRecord]:
    records: list[GroupRecord] = []
    for n in range(first, first + num):
        labels: tuple[float, ...] = ((1.0, 0.0), (1,), (0.2,), (0.4, 0.0, 1.0))[n % 4]
        scores = {"taste": tuple(float(n + place) for place in range(len(labels))), "n": (n,) * len(labels)}
        prompt = PROMPTS[n % len(PROMPTS)]
        records.append(GroupRecord(f"id-{n % 17}", prompt, prompt * (n % 3), 2**63 - 1 - n, labels, scores))
    return records


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_table, "_BATCH", 7)


def test_a_table_is_as_its_list() -> None:
    records = _records(40)
    table = RecordTable.holding(records)
    assert table == records and records == table and len(table) == 40 and [*table] == records
    assert table[3] == records[3] == table[-37] and table[5:31:3] == records[5:31:3]
    assert table.of(np.array([39, 0, 0, 8, 7])) == [records[n] for n in (39, 0, 0, 8, 7)]
    assert type(table[1].labels[0]) is int and type(table[0].labels[0]) is float, "digests tell 1 from 1.0"
    assert table != records[:-1] and table != _records(40, 1) and table != 5
    for name in ("id", "prompt", "degraded"):
        texts = [getattr(record, name) for record in records]
        assert list(table.texts(name)) == texts
        assert table.keys(name).tolist() == [key_of(text) for text in texts]
        assert table.num_distinct(name) == len(set(texts))
    assert table.kinds().tolist() == [kind_of(record) for record in records]
    assert table.seeds().tolist() == [record.seed for record in records]
    with pytest.raises(IndexError):
        table[40]
    with pytest.raises(IndexError):
        table[-41]
    assert len(RecordTable.holding([])) == 0 and not [*RecordTable.holding([])]


def test_a_record_is_found_by_its_text_though_another_has_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    records = _records(17)
    for is_one_key in (False, True):
        if is_one_key:
            monkeypatch.setattr(record_table, "_key_bytes", lambda _: bytes(range(8)))
        table = RecordTable.holding(records)
        assert [table.find("id", record.id) for record in records] == [*range(17)]
        assert table.find("prompt", "z") == 2 and table.repeated_texts("id") == []
        assert RecordTable.holding(_records(19)).repeated_texts("id") == ["id-0", "id-1"]


def _apart(records: list[GroupRecord]) -> list[GroupRecord]:
    singles: list[GroupRecord] = []
    for record in records:
        for place, label in enumerate(record.labels):
            scores = {name: (numbers[place],) for name, numbers in record.scores.items()}
            singles.append(replace(record, labels=(label,), scores=scores))
    return singles


CHOICES: dict[str, tuple[Callable[[ChosenRecords], ChosenRecords], Callable[[list[GroupRecord]], list[GroupRecord]]]]
CHOICES = {
    "all": (lambda chosen: chosen, lambda records: records),
    "some": (lambda chosen: chosen.only(np.array([44, 2, 2, 31, 0])), lambda r: [r[n] for n in (44, 2, 2, 31, 0)]),
    "none": (lambda chosen: chosen.only(np.array([], int)), lambda _: []),
    "apart": (lambda chosen: chosen.apart(), _apart),
    "some, apart": (lambda c: c.only(np.arange(40, 2, -3)).apart(), lambda r: _apart(r[40:2:-3])),
    "apart, some": (lambda c: c.apart().only(np.arange(3, 60, 2)), lambda r: _apart(r)[3:60:2]),
    "drawn": (lambda c: c.as_drawn(FirstSamples(2, None)), lambda r: [record.as_drawn(2) for record in r]),
    "drawn by a judge, some": (
        lambda c: c.as_drawn(FirstSamples(2, "taste")).only(np.arange(9)),
        lambda r: [record.as_drawn(2, "taste") for record in r[:9]],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("choose", "expect"), CHOICES.values(), ids=CHOICES)
def test_chosen_records_are_as_those_of_a_list(choose: Callable[..., Any], expect: Callable[..., Any]) -> None:
    parts = [_records(20), _records(1, 20), _records(24, 21)]
    chosen = choose(ChosenRecords([RecordTable.holding(part) for part in parts], np.arange(45)))
    records = expect([record for part in parts for record in part])
    assert chosen == records and [chosen[n] for n in range(len(records))] == records
    assert chosen.kinds().tolist() == [kind_of(record) for record in records]
    assert chosen.seeds().tolist() == [record.seed for record in records]
    assert list(chosen.texts("degraded")) == [record.degraded for record in records]
    assert chosen.keys("id").tolist() == [key_of(record.id) for record in records]
    texts = [text for record in records for text in (record.degraded, record.prompt)]
    assert list(chosen.distinct_texts(["degraded", "prompt"])) == list(dict.fromkeys(texts))
    by_prompt = chosen.alike("prompt")
    prompts = [record.prompt for record in records]
    assert by_prompt.order.tolist() == sorted(range(len(records)), key=lambda n: (prompts[n], n))
    assert [prompts[by_prompt.order[n]] for n in by_prompt.starts] == sorted(set(prompts))
    assert by_prompt.sizes.tolist() == [prompts.count(prompt) for prompt in sorted(set(prompts))]


def test_the_first_of_each_key() -> None:
    keys = np.random.default_rng(0).integers(0, 40, 100).astype(np.uint64)
    every = keys.tolist()
    assert first_of_each(keys).tolist() == sorted({every.index(key) for key in every})
