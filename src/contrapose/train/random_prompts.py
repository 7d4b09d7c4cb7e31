"""Prompts of no relation to a group's samples, with their degraded ones, for random conditioning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from contrapose.degrade.given import degraded_prompts
from contrapose.errors import UserError
from contrapose.store.mixture import Mixture


class PromptPairs:
    """Distinct prompts, each with its degraded variants, one at least."""

    def __init__(self, variants: Mapping[str, Sequence[str]]):
        self._variants = variants
        self._prompts = list(variants)

    def texts(self) -> list[str]:
        """Every distinct text."""
        texts = dict.fromkeys(self._prompts)
        for variants in self._variants.values():
            texts.update(dict.fromkeys(variants))
        return list(texts)

    def draw(self, stream: torch.Generator) -> dict[str, str]:
        """A prompt and one of its degraded variants, both uniformly, as a record's fields of these names."""
        prompt = self._prompts[_place(self._prompts, stream)]
        variants = self._variants[prompt]
        return {"prompt": prompt, "degraded": variants[_place(variants, stream)]}


def of_file(file: Path, pairs: Mixture) -> PromptPairs:
    """The file's prompts but for those of the pairs; `UserError` where none is left or the file cannot be read."""
    of_pairs = {record.prompt for record in pairs.records}
    further = {prompt: variants for prompt, variants in degraded_prompts(file).items() if prompt not in of_pairs}
    if not further:
        raise UserError(
            f"{file}: has no degraded prompt of any other prompt than those of {pairs}; name a file of further prompts"
        )
    return PromptPairs(further)


def of_records(pairs: Mixture, records: Sequence[int]) -> PromptPairs:
    """The prompts of these records."""
    variants: dict[str, list[str]] = {}
    for number in records:
        record = pairs.records[number]
        of_prompt = variants.setdefault(record.prompt, [])
        if record.degraded not in of_prompt:
            of_prompt.append(record.degraded)
    return PromptPairs(variants)


def _place(values: Sequence[str], stream: torch.Generator) -> int:
    return int(torch.randint(len(values), (), generator=stream))
