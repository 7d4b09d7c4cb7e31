"""Prompts in a file without a name that goes with them: a million take no more memory than a thousand."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from contrapose.containers.spool import MadeWhenAsked
from contrapose.store.prompts import Prompt
from contrapose.store.record_table import RecordTable
from contrapose.store.records import GroupRecord


class PromptTable(MadeWhenAsked[Prompt]):
    """Prompts in their order with their places and fields; `UserError` where the disk is full."""

    def __init__(self, prompts: Iterable[Prompt]):
        # as records without samples: a place is the identifier, and the fields are JSON in the other text
        self.records = RecordTable.holding(
            GroupRecord(prompt.place, prompt.text, json.dumps(dict(prompt.fields)), 0, ()) for prompt in prompts
        )

    def __len__(self) -> int:
        return len(self.records)

    def one(self, index: int) -> Prompt:
        return _prompt(self.records[index])

    def some(self, indices: range) -> list[Prompt]:
        return [_prompt(record) for record in self.records.some(indices)]

    def __iter__(self) -> Iterator[Prompt]:
        return map(_prompt, self.records)

    def of_text(self, text: str) -> Prompt:
        """The first prompt of a text that is there."""
        return self[self.records.find("prompt", text)]


def _prompt(record: GroupRecord) -> Prompt:
    return Prompt(record.prompt, json.loads(record.degraded), record.id)
