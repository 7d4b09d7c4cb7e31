"""Records of several tables as one, or some of them, or each of their samples as a record of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from contrapose.store.record_table import Numbers, Records, RecordTable, piece_of, stretches
from contrapose.store.records import GroupRecord


class Alike(NamedTuple):
    """Records by one of their texts: `order` has the numbers of all records by that text, and of equal ones by number.

    Those of the n-th distinct text stand from `starts[n]` on.
    """

    order: Numbers
    starts: Numbers

    @property
    def sizes(self) -> Numbers:
        """How many records have each distinct text."""
        return np.diff(self.starts, append=len(self.order))


@dataclass(frozen=True)
class FirstSamples:
    """Of every record its first so many samples, ranked by a judge, or by their labels without one."""

    num: int
    judge: str | None


class ChosenRecords(Records):
    """Records of tables that stand one behind the other, by their numbers there.

    `drawn` says what is taken of each, and `places` which of its samples alone; `kinds` is what is known of them then.
    """

    def __init__(
        self,
        tables: Sequence[RecordTable],
        numbers: Numbers,
        drawn: FirstSamples | None = None,
        places: Numbers | None = None,
        kinds: Numbers | None = None,
    ):
        super().__init__()
        self.tables = tables
        self.numbers = numbers
        self.drawn = drawn
        self.places = places
        self._kinds = kinds
        self._ends = np.cumsum([len(table) for table in tables], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.numbers)

    def table_of(self, index: int) -> tuple[int, int]:
        """Which table a record is in, and its row there."""
        return piece_of(int(self.numbers[index]), self._ends)

    def only(self, chosen: Numbers) -> ChosenRecords:
        """These records alone, in this order."""
        places = None if self.places is None else self.places[chosen]
        return ChosenRecords(self.tables, self.numbers[chosen], self.drawn, places, self.kinds()[chosen])

    def as_drawn(self, drawn: FirstSamples) -> ChosenRecords:
        """The first samples of each record."""
        kinds = np.minimum(np.abs(self.kinds()), drawn.num)
        return ChosenRecords(self.tables, self.numbers, drawn, kinds=kinds)

    def apart(self) -> ChosenRecords:
        """Every sample as a record of its own, known by its group's identifier, prompt and seed."""
        assert self.places is None, "they are apart"
        sizes = np.abs(self.kinds())
        kinds = np.empty(int(sizes.sum()), np.int32)
        first = 0
        for record in self:
            for place, label in enumerate(record.labels):
                kinds[first + place] = 1 if label >= 0.5 else -1
            first += record.num_samples
        starts = np.cumsum(sizes) - sizes
        places = np.arange(len(kinds)) - np.repeat(starts, sizes)
        return ChosenRecords(self.tables, np.repeat(self.numbers, sizes), self.drawn, places, kinds)

    def _made(self, index: int) -> GroupRecord:
        table, row = self.table_of(index)
        return self._as_chosen(index, self.tables[table][row])

    def of(self, indices: Numbers) -> list[GroupRecord]:
        records: list[GroupRecord] = []
        for table, rows in self._pieces(indices):
            records += table.of(rows)
        if self.drawn is None and self.places is None:
            return records
        return [self._as_chosen(int(index), record) for index, record in zip(indices, records, strict=True)]

    def texts(self, name: str, indices: Numbers | None = None) -> Iterator[str]:
        for table, rows in self._pieces(np.arange(len(self)) if indices is None else indices):
            yield from table.texts(name, rows)

    def keys(self, name: str) -> Numbers:
        return self._of_tables([table.keys(name) for table in self.tables])

    def seeds(self) -> Numbers:
        return self._of_tables([table.seeds() for table in self.tables])

    def kinds(self) -> Numbers:
        if self._kinds is None:
            self._kinds = self._of_tables([table.kinds() for table in self.tables])
        return self._kinds

    def alike(self, name: str) -> Alike:
        """The records by one of their texts, whose order is that of their letters."""
        chunks = [chunk for table in self.tables for chunk in table.column(name).chunks]
        sorted_texts = pc.sort_indices(pa.chunked_array(chunks, pa.string())).to_numpy()
        # the rank of each record's text among the distinct ones of all tables
        keys = np.concatenate([table.keys(name) for table in self.tables])[sorted_texts]
        ranks = np.empty(len(keys), np.int64)
        ranks[sorted_texts] = np.cumsum(np.diff(keys, prepend=keys[:1]) != 0)
        of_records = ranks[self.numbers]
        order = np.argsort(of_records, kind="stable")
        starts = np.flatnonzero(np.diff(of_records[order], prepend=-1))
        return Alike(order, starts)

    def _of_tables(self, values: Sequence[Numbers]) -> Numbers:
        return np.concatenate(values)[self.numbers]

    def _pieces(self, indices: Numbers) -> Iterator[tuple[RecordTable, Numbers]]:
        """The tables that hold these records, in turn, with the records' rows in each."""
        for table, rows in stretches(self.numbers[indices], self._ends):
            yield self.tables[table], rows

    def _as_chosen(self, index: int, record: GroupRecord) -> GroupRecord:
        if self.drawn is not None:
            record = record.as_drawn(self.drawn.num, self.drawn.judge)
        if self.places is None:
            return record
        place = int(self.places[index])
        scores = {name: (numbers[place],) for name, numbers in record.scores.items()}
        return replace(record, labels=(record.labels[place],), scores=scores)
