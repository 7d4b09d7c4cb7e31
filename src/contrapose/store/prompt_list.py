"""Prompts alone where folders of groups are expected: for methods that draw all of their samples themselves."""

from __future__ import annotations

from pathlib import Path

from contrapose.containers.places import digest_at
from contrapose.store.prompt_table import PromptTable
from contrapose.store.prompts import Prompt, iter_listed, prompt_id
from contrapose.store.record_table import RecordTable, first_of_each
from contrapose.store.records import GroupRecord


class PromptList:
    """A file of prompts, each text once, as records without samples; raises `UserError` as `read_prompts` does."""

    def __init__(self, path: Path):
        self.folder = path
        self._listed = PromptTable(row for row in iter_listed(path) if isinstance(row, Prompt))
        # of each text where it first stands
        self._firsts = first_of_each(self._listed.records.keys("prompt"))
        texts = self._listed.records.texts("prompt", self._firsts)
        self.records = RecordTable.holding(GroupRecord.undecided(prompt_id(text), text, 0, 0) for text in texts)

    def __len__(self) -> int:
        return len(self.records)

    def prompt(self, row: int) -> Prompt:
        """One record's prompt, with what its first line in the file tells beside its text."""
        return self._listed[int(self._firsts[row])]

    @property
    def digest(self) -> str:
        """A digest of what the file holds."""
        return digest_at(self.folder)
