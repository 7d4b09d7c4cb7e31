"""Degraded prompts that were written elsewhere, such as by DDSPO's own preparation."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from contrapose.containers.left_out import LeftOut
from contrapose.degrade.degrader import Degraded, not_degraded
from contrapose.errors import UserError
from contrapose.store.prompts import Prompt, read_prompts

FIELDS = ("degraded_prompts", "neg_prompts")  # the second as DDSPO's preparation writes it


@dataclass(frozen=True)
class Given:
    """Degraded prompts from a .jsonl or .json of `prompt` and `degraded_prompts` (or `neg_prompts`), a list each.

    Lines of one prompt add up. `file` may be the very file that the prompts are read from.
    """

    by_rule: ClassVar[bool] = False
    file: Path | None = None
    """The .jsonl or .json with the degraded prompts."""

    def variants(self, prompts: Sequence[str], seed: int) -> list[Degraded]:
        """Return what the file has for each prompt; `UserError` for one that cannot be read or says something else."""
        if self.file is None:
            raise UserError("degrade.file is not set; name the .jsonl with the degraded prompts")
        by_prompt = _listed(self.file)
        return [_usable(prompt, by_prompt.get(prompt)) for prompt in prompts]


def degraded_prompts(file: Path) -> dict[str, tuple[str, ...]]:
    """The degraded variants of every prompt of such a file that has one; `UserError` for one that cannot be read."""
    usable: dict[str, tuple[str, ...]] = {}
    for prompt, listed in _listed(file).items():
        variants = _usable(prompt, listed)
        if not isinstance(variants, LeftOut):
            usable[prompt] = variants
    return usable


def _listed(file: Path) -> dict[str, dict[str, None]]:
    """What each prompt's lines list, as sets that keep their order."""
    by_prompt: dict[str, dict[str, None]] = {}
    for line in read_prompts(file):
        by_prompt.setdefault(line.text, {}).update(dict.fromkeys(_texts(line, file)))
    return by_prompt


def _texts(line: Prompt, file: Path) -> list[str]:
    """The degraded prompts that one line lists; `UserError` naming it where it lists none."""
    where = f"{file}: {line.place}"
    field = next((name for name in FIELDS if name in line.fields), None)
    if field is None:
        raise UserError(f"{where}: has neither `{FIELDS[0]}` nor `{FIELDS[1]}`; write the prompt's degraded ones there")
    texts = line.fields[field]
    if not isinstance(texts, list) or not all(isinstance(text, str) and "\0" not in text for text in texts):
        raise UserError(f"{where}: `{field}` is no list of prompts; fix or remove the line")
    return texts


def _usable(prompt: str, listed: Collection[str] | None) -> Degraded:
    if listed is None:
        return not_degraded(prompt, "the file of degraded prompts does not have it")
    # from an empty text, or from the prompt itself, nothing could be learnt
    texts = tuple(text for text in listed if text.strip() and text != prompt)
    if not texts:
        return not_degraded(prompt, "no degraded prompt is given")
    return texts
