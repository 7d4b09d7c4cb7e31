"""The answers a language model gave, on disk as they come, so that a killed run carries on where it stopped."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from contrapose.errors import UserError

START = b'{"key": "'  # how each line begins: tells a line cut short by a kill from a file that is no answers cache


class Answers:
    """Records by key in memory and, with a path, in an append-only JSONL file; a last line cut short is removed."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._known: dict[str, Mapping[str, Any]] = {}
        if path is not None and path.exists():
            self._read(path)

    def get(self, key: str) -> Mapping[str, Any] | None:
        """Return the record of this key, or None where there is none yet."""
        return self._known.get(key)

    def add(self, records: Mapping[str, Mapping[str, Any]]) -> None:
        """Keep the records and hand them to the operating system in one piece, where a kill cannot take them back."""
        self._known.update(records)
        if self._path is None:
            return
        lines = [json.dumps({"key": key, **record}) + "\n" for key, record in records.items()]
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab") as file:
                file.write("".join(lines).encode("ascii"))
        except OSError as error:
            raise UserError(f"{self._path}: the answers cache cannot be written ({error.strerror})") from None

    def _read(self, path: Path) -> None:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise UserError(f"{path}: the answers cache cannot be read ({error.strerror})") from None
        # what follows the last line break is the line that a kill cut short, or nothing
        *lines, tail = data.split(b"\n")
        for number, line in enumerate(lines, start=1):
            record = _record(line)
            if record is None:
                raise UserError(
                    f"{path}: line {number} is no cached answer; remove the line or name another cache file"
                )
            self._known[record.pop("key")] = record
        if tail and not tail.startswith(START[: len(tail)]):
            raise UserError(f"{path}: is no answers cache; name another cache file")
        if tail:
            with path.open("r+b") as file:
                file.truncate(len(data) - len(tail))


def _record(line: bytes) -> dict[str, Any] | None:
    """Return the line as a record {key, variants, reason}, or None if it is anything else."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or not isinstance(record.get("key"), str):
        return None
    variants = record.get("variants")
    sound = isinstance(variants, list) and all(isinstance(text, str) for text in variants)
    return record if sound and isinstance(record.get("reason"), str) else None
