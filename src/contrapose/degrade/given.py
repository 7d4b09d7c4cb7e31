"""Degraded prompts that were written elsewhere, such as by DDSPO's own preparation."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from contrapose.degrade.degrader import Skipped
from contrapose.errors import UserError
from contrapose.store.prompts import Prompt, read_prompts

FIELDS = ("degraded_prompts", "neg_prompts")  # the second as DDSPO's preparation writes it


@dataclass(frozen=True)
class Given:
    """Degraded prompts from a .jsonl or .json of `prompt` and `degraded_prompts` (or `neg_prompts`), a list each.

    Lines of one prompt add up. `file` may be the very file that the prompts are read from.
    """

    file: Path | None = None
    """The .jsonl or .json with the degraded prompts."""

    def variants(self, prompts: Sequence[str], seed: int) -> list[tuple[str, ...]]:
        """Return each prompt's own; `UserError` for a file that cannot be read or says something else."""
        if self.file is None:
            raise UserError("degrade.file is not set; name the .jsonl with the degraded prompts")
        by_prompt: dict[str, dict[str, None]] = {}
        for line in read_prompts(self.file):
            by_prompt.setdefault(line.text, {}).update(dict.fromkeys(_degraded(line, self.file)))
        return [_without(prompt, by_prompt.get(prompt)) for prompt in prompts]


def _degraded(line: Prompt, file: Path) -> list[str]:
    where = f"{file}: {line.place}"
    field = next((name for name in FIELDS if name in line.fields), None)
    if field is None:
        raise UserError(f"{where}: has neither `{FIELDS[0]}` nor `{FIELDS[1]}`; write the prompt's degraded ones there")
    texts = line.fields[field]
    if not isinstance(texts, list) or not all(isinstance(text, str) and "\0" not in text for text in texts):
        raise UserError(f"{where}: `{field}` is no list of prompts; mend or remove the line")
    return texts


def _without(prompt: str, degraded: dict[str, None] | None) -> tuple[str, ...]:
    """What is left without empty ones and the prompt itself, from which nothing could be learnt."""
    if degraded is None:
        return Skipped("the file of degraded prompts does not have it")
    return tuple(text for text in degraded if text.strip() and text != prompt) or Skipped("no degraded prompt is given")
