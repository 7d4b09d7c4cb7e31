"""A JSON list is read entry by entry, whatever the chunks are that it comes in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from contrapose.containers import json_files
from contrapose.containers.json_files import list_rows
from contrapose.containers.readers import rows_of
from contrapose.errors import UserError


def items(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for row in list_rows(path):
        yield int(row.place.removeprefix("entry ")), dict(row.fields)


ENTRIES = [
    {"a": 1, "text": 'a "quoted" ] } [ text, é \U0001f600'},
    {},
    {"nested": [{"b": [1, 2]}, None]},
    {"last": True},
]


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64, 1 << 20])
@pytest.mark.parametrize("indent", [None, 4])
def test_entries_in_chunks_of_any_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, indent: int | None
) -> None:
    monkeypatch.setattr(json_files, "_CHUNK", chunk)
    path = tmp_path / "list.json"
    path.write_text("\ufeff " + json.dumps(ENTRIES, indent=indent, ensure_ascii=False) + "\n", encoding="utf-8")
    assert list(items(path)) == list(enumerate(ENTRIES, 1))


def test_an_empty_list(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text(" [ ] ")
    assert list(items(tmp_path / "list.json")) == []


@pytest.mark.parametrize(
    ("text", "told", "before"),
    [
        ('[{"a": 1}, {"b": 2', "entry 2: is cut short or not JSON", 1),
        ('[{"a": 1}, ', "entry 2: is cut short", 1),
        ('[{"a": 1}', "entry 2: is cut short", 1),
        ('[{"a": 1} {"b": 2}]', "entry 2: is cut short or not JSON", 1),
        ('[{"a": 1}, {"b": nonsense}, {"c": 3}]', "entry 2: is cut short or not JSON", 1),
        ('[{"a": 1}, [1]]', "entry 2: is not an object", 1),
        ('[{"a": 1},]', "entry 2: is cut short or not JSON", 1),
        ('[{"a": 1}] {"b": 2}', "entry 2: is cut short or not JSON (parse error: trailing garbage)", 1),
        ('[{"a": 9' + "9" * 30 + "}]", "entry 1: is cut short or not JSON (parse error: integer overflow", 0),
        ('{"a": 1}', "is not a JSON list", 0),
        ("", "is not a JSON list", 0),
        ('[{"a": ' + "[" * 100_000, "entry 1: is cut short or not JSON", 0),
    ],
)
def test_what_is_no_list(tmp_path: Path, text: str, told: str, before: int) -> None:
    (tmp_path / "list.json").write_text(text)
    found = []
    with pytest.raises(UserError, match=r"list\.json: ") as error:
        found.extend(items(tmp_path / "list.json"))
    assert told in str(error.value) and "\n" not in str(error.value)
    seen = 0
    with pytest.raises(UserError):
        for seen, _ in items(tmp_path / "list.json"):  # noqa: B007
            pass
    assert seen == before


def test_what_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_bytes(b'[{"a": "caf\xe9"}]')
    with pytest.raises(UserError, match="is not UTF-8"):
        list(items(tmp_path / "list.json"))
    with pytest.raises(UserError, match="no such file"):
        list(rows_of(tmp_path / "none.json"))


def test_an_entry_without_an_end_is_not_read_to_the_files_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_files, "_CHUNK", 100)
    monkeypatch.setattr(json_files, "_LONGEST", 1000)
    (tmp_path / "list.json").write_text('[{"a": "' + "x" * 100_000)
    read = tmp_path / "list.json"
    place = Counted(read)
    with pytest.raises(UserError, match=r"entry 1: is cut short or not JSON .it does not end"):
        list(list_rows(place))  # type: ignore[arg-type]
    assert place.num_bytes < 2000


class Counted:
    """A file of which it is counted how much is read."""

    def __init__(self, path: Path):
        self.path, self.num_bytes = path, 0

    def __str__(self) -> str:
        return str(self.path)

    def open(self, mode: str) -> Counted:
        self.file = self.path.open(mode)
        return self

    def __enter__(self) -> Counted:
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()

    def read(self, num: int) -> bytes:
        self.num_bytes += num
        return self.file.read(num)


def test_one_entry_in_memory(tmp_path: Path) -> None:
    """HPDv3 has a million entries; here are 20,000 of a kilobyte each."""
    import tracemalloc

    with (tmp_path / "list.json").open("w") as file:
        file.write("[" + ",".join(json.dumps({"prompt": "x" * 1000, "n": n}) for n in range(20_000)) + "]")
    tracemalloc.start()
    last = 0
    for last, entry in items(tmp_path / "list.json"):  # noqa: B007
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert last == 20_000
    assert peak < 8 << 20 < (tmp_path / "list.json").stat().st_size
