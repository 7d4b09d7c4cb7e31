"""Prompts as a command line has them: `--prompts "a red fox" my.txt`, texts and files of prompts side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from contrapose.containers.left_out import LeftOut
from contrapose.containers.places import PROTOCOLS, digest_at
from contrapose.containers.readers import READERS
from contrapose.contents import digest_of_parts
from contrapose.errors import UserError
from contrapose.files import is_writable
from contrapose.store.prompts import Prompt, iter_listed

_SUFFIXES = (".txt", *READERS)


def named_prompts(entries: Sequence[str]) -> list[Prompt]:
    """The prompts that are typed, and those of files and folders of prompts, in order, duplicates kept.

    Raises `UserError` for an entry that is no prompt, for files as `read_prompts` does, and where there are none.
    """
    return [row for row in iter_named(entries) if isinstance(row, Prompt)]


def iter_named(entries: Sequence[str]) -> Iterator[Prompt | LeftOut]:
    """The same prompts and the rows of their files that are left out, in their order, as they are read."""
    if isinstance(entries, (str, Path)):  # as Python lets it be called
        raise UserError(f'prompts: a tuple of texts and files is wanted; write ("{entries}",)')
    if not entries:
        raise UserError("prompts: none is named; write a text, or the name of a file of prompts")
    for number, entry in enumerate(entries, start=1):
        if not entry.strip() or not is_writable(entry):
            raise UserError(f"prompts: {entry!r} is no prompt; write a text, or the name of a file of prompts")
        if names_file(entry):
            yield from iter_listed(entry)
        else:
            yield Prompt(entry, place=f"number {number}")


def names_file(entry: str) -> bool:
    """Whether an entry means a file or a folder of prompts, be it there or not, and not the prompt itself."""
    path = Path(entry)
    if entry.startswith(tuple(f"{protocol}:/" for protocol in PROTOCOLS)) or path.suffix.lower() in _SUFFIXES:
        return True
    # one word with a separator or an ending is a name that was mistyped sooner than a prompt
    is_word = len(entry.split()) == 1
    return is_word and (len(path.parts) > 1 or bool(path.suffix) or path.is_dir())


def digest_of_named(entries: Sequence[str]) -> str:
    """A digest of the files' contents and of the texts: of one file alone, its own."""
    digests: list[str] = []
    for entry in entries:
        digests.append(digest_at(Path(entry)) if names_file(entry) else digest_of_parts([entry]))
    return digests[0] if len(entries) == 1 else digest_of_parts(digests)


def title_of(entries: Sequence[str]) -> str:
    """What messages call the prompts: by their file where it is one."""
    return entries[0] if len(entries) == 1 and names_file(entries[0]) else "--prompts"
