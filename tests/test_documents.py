"""YAML and JSON are read plainly: whatever else a file holds is told in one line that names the file."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from contrapose import documents
from contrapose.documents import MOST_BYTES, as_read, dump_yaml, json_lines, load_json, load_yaml
from contrapose.errors import UserError

# what a file holds, and a word of what is said about it
NOT_PLAIN = {
    "a key twice": (b"a: 1\nb: 2\na: 3\n", "a is said twice"),
    "a key twice further in": (b"a:\n  b: 1\n  b: 2\n", "line 2: b is said twice"),
    "an alias": (b"a: &x [1]\nb: *x\n", "line 2: an alias"),
    "aliases of aliases": (b"a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n", "an alias"),
    "a tag": (b"a: !!python/object/apply:os.getcwd []\n", "a tag"),
    "a standard tag": (b"a: !!int '3'\n", "a tag"),
    "lists in lists": (b"a: " + b"[" * 3000 + b"]" * 3000, "levels"),
    "lists without end": (b"[" * 5000, "levels"),
    "mappings in mappings": (b"{a: " * 3000 + b"1" + b"}" * 3000, "levels"),
    "a long line": (b"a: " + b"x" * MOST_BYTES, "larger than 1 MB"),
    "not UTF-8": (b"a: \xff\xfe", "utf-8"),
    "a NUL": (b"a: \0", "special characters"),
    "cut off": (b"a: [1, 2", "line 1"),
    "a tabulator": (b"a:\n\tb: 1\n", "line 2"),
    "no key": (b"{[1]: 2}", "unhashable"),
    "a number of many digits": (b"a: " + b"9" * 6000, "digits"),
    "two documents": (b"a: 1\n---\nb: 2\n", "line 2"),
}


@pytest.fixture(params=["as built", "in Python alone"])
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyYAML with libyaml, where it was built with it, and without."""
    documents._parsed.cache_clear()
    if request.param == "in Python alone":
        monkeypatch.setattr(documents, "_QuickLoader", documents._PlainLoader)


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize("case", NOT_PLAIN)
def test_yaml_that_is_not_plain_is_one_line(tmp_path: Path, case: str) -> None:
    content, reason = NOT_PLAIN[case]
    path = tmp_path / "settings.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_yaml(path, "delete it")
    message = str(caught.value)
    assert message.startswith(f"{path}: not readable as YAML: ")
    assert reason in message
    assert message.endswith("; delete it")
    assert "\n" not in message and len(message) < 600


PLAIN = (
    "a: [1, 0x1f, 0o17, 017, 1_000, 1e5, 1.e+5, .5, -.inf, .nan, 12:30, ~, yes, NO, 'no', \"\\u00e9\\n\"]\n"
    "b: 2001-01-01\nc:\n  - - 1\n    - {x: y, 'z': }\n  - |\n    lines\n    kept\n  - >-\n    folded\n    lines\n"
    "'': two\n? d\n: \xe9\U0001f3a8 # a remark\ne: a plain\n  text\n",
    "a: 1\r\nb:\r\n- 'x''y'\r\n- \r\n",
    "\ufeffa: {b: [c, d,], e: f}",
    "# nothing",
    "---\na: 1\n...\n",
)


@pytest.mark.parametrize("text", PLAIN)
def test_libyaml_reads_what_python_reads(text: str) -> None:
    told = [repr(documents._read(text, kind)) for kind in (documents._QuickLoader, documents._PlainLoader)]
    assert told[0] == told[1]


@pytest.mark.usefixtures("reader")
def test_plain_yaml_is_read_as_it_was_written(tmp_path: Path) -> None:
    shared = [1, 2.5, None, True]
    values = {"name": "a: b # c", "1": "2001-01-01", "one": shared, "other": shared, "in": {"in": {"x": []}}}
    path = tmp_path / "settings.yaml"
    path.write_text(dump_yaml(values), encoding="utf-8")
    assert load_yaml(path) == values
    assert "&" not in path.read_text(encoding="utf-8")


def test_tuples_are_told_as_the_lists_that_a_file_gives_back(tmp_path: Path) -> None:
    values = {"sizes": (1, (2.5, "a")), "parts": [{"x": ()}], "rate": 1e-5, "name": "no", "none": None}
    path = tmp_path / "settings.yaml"
    path.write_text(yaml.safe_dump(as_read(values)), encoding="utf-8")
    assert load_yaml(path) == as_read(values) != values
    path.write_text(dump_yaml(values), encoding="utf-8")
    assert load_yaml(path) == as_read(values)


NOT_JSON = {"empty": b"", "cut off": b'{"a": [1,', "deep": b"[" * 100_000, "not UTF-8": b'{"a": "\xff"}', "text": b"a"}


@pytest.mark.parametrize("case", NOT_JSON)
def test_broken_json_is_one_line(tmp_path: Path, case: str) -> None:
    path = tmp_path / "summary.json"
    path.write_bytes(NOT_JSON[case])
    with pytest.raises(UserError, match="not readable as JSON") as caught:
        load_json(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("case", [*NOT_JSON.values(), b"null", b"[1]", b"3"])
def test_a_line_that_is_no_object_is_named(tmp_path: Path, case: bytes) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n\n' + case + b"\n")
    rows = json_lines(path)
    assert next(rows) == (1, {"a": 1})
    if case == b"":  # a blank line is none
        assert list(rows) == []
        return
    with pytest.raises(UserError, match=r"rows\.jsonl: line 3: "):
        list(rows)


@pytest.mark.parametrize("read", [load_yaml, load_json, lambda path: list(json_lines(path))])
def test_a_missing_file_is_told(tmp_path: Path, read) -> None:
    with pytest.raises(UserError, match="no such file"):
        read(tmp_path / "none")
