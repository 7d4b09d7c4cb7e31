"""Prompts alone where folders of groups are expected: for methods that draw all of their samples themselves."""

from __future__ import annotations

from pathlib import Path

from contrapose.containers.places import digest_at
from contrapose.store.prompts import Prompt, prompt_id, read_prompts
from contrapose.store.record_table import RecordTable
from contrapose.store.records import GroupRecord


class PromptList:
    """A file of prompts, each text once, as records without samples; raises `UserError` as `read_prompts` does."""

    def __init__(self, path: Path):
        self.folder = path
        by_text: dict[str, Prompt] = {}
        for prompt in read_prompts(path):
            by_text.setdefault(prompt.text, prompt)
        self.prompts = list(by_text.values())
        self.records = RecordTable.holding(GroupRecord.undecided(prompt_id(text), text, 0, 0) for text in by_text)

    def __len__(self) -> int:
        return len(self.records)

    @property
    def digest(self) -> str:
        """A digest of what the file holds."""
        return digest_at(self.folder)
