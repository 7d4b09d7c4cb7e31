"""Prompts of no relation to a group's samples, with their degraded ones, for random conditioning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from contrapose.degrade.given import degraded_prompts
from contrapose.errors import UserError
from contrapose.store.mixture import Mixture
from contrapose.store.record_table import Numbers, key_of


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
    listed = degraded_prompts(file)
    is_of_pairs = np.isin([key_of(prompt) for prompt in listed], pairs.records.keys("prompt"))
    further = {prompt: listed[prompt] for prompt, is_known in zip(listed, is_of_pairs, strict=True) if not is_known}
    if not further:
        raise UserError(
            f"{file}: has no degraded prompt of any other prompt than those of {pairs}; name a file of further prompts"
        )
    return PromptPairs(further)


def of_records(pairs: Mixture, records: Numbers) -> PromptPairs:
    """The prompts of these records."""
    variants: dict[str, list[str]] = {}
    for record in pairs.records.of(records):
        of_prompt = variants.setdefault(record.prompt, [])
        if record.degraded not in of_prompt:
            of_prompt.append(record.degraded)
    return PromptPairs(variants)


def _place(values: Sequence[str], stream: torch.Generator) -> int:
    return int(torch.randint(len(values), (), generator=stream))
