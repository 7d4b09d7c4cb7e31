"""Rows survive the disk, and only like is compared with like."""

from __future__ import annotations

import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contrapose.errors import UserError
from contrapose.evaluate.rows import EvidenceRow, paired, prompt_id, read_rows, write_rows


def rows(model: str, values: dict[tuple[str, int], float], metric: str = "correct") -> list[EvidenceRow]:
    return [EvidenceRow(model, name, "colors", seed, metric, value) for (name, seed), value in values.items()]


def test_rows_survive_the_disk(tmp_path):
    written = [
        EvidenceRow("a", "00000-1", "colors", 3, "correct", 0.1 + 0.2, "expected cat"),
        EvidenceRow("b", "é", "t", 0, "m", -1.0),
    ]
    write_rows(written, tmp_path / "deep" / "rows.parquet")
    assert read_rows(tmp_path / "deep" / "rows.parquet") == written
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["rows.parquet"]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "rows.parquet"
    write_rows(rows("a", {("p", 0): 1.0}), path)
    with pytest.raises(pa.ArrowException):
        write_rows([EvidenceRow("a", "p", "t", "not a seed", "m", 1.0)], path)  # type: ignore[arg-type]
    assert len(read_rows(path)) == 1


def test_unreadable_files_are_told(tmp_path):
    with pytest.raises(UserError, match=r"none\.parquet.*evaluate first"):
        read_rows(tmp_path / "none.parquet")
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1 nothing")
    with pytest.raises(UserError, match="broken"):
        read_rows(broken)
    pq.write_table(pa.table({"model": ["a"]}), tmp_path / "other.parquet")
    with pytest.raises(UserError, match="no column prompt_id"):
        read_rows(tmp_path / "other.parquet")
    columns = {n: ["x"] for n in ("model", "prompt_id", "tag", "seed", "metric", "value", "reason")}
    pq.write_table(pa.table(columns), tmp_path / "text.parquet")
    with pytest.raises(UserError, match=r"text\.parquet"):
        read_rows(tmp_path / "text.parquet")


def test_prompt_id_tells_prompt_files_apart():
    assert prompt_id("00007", "a cat") == prompt_id("00007", "a cat")
    assert prompt_id("00007", "a cat").startswith("00007-")
    assert len({prompt_id("00007", "a cat"), prompt_id("00007", "a dog"), prompt_id("00008", "a cat")}) == 3


def test_paired_aligns_whatever_the_order():
    a = {("p", 0): 1.0, ("p", 1): 2.0, ("q", 0): 3.0}
    b = dict(reversed([(key, 10 * value) for key, value in a.items()]))
    both = paired(rows("a", a) + rows("b", b) + rows("b", b, "other"), "a", "b", "correct")
    assert both.a.tolist() == [1.0, 2.0, 3.0] and both.b.tolist() == [10.0, 20.0, 30.0]
    assert both.prompt_ids == ("p", "p", "q") and both.seeds == (0, 1, 0)


def test_paired_refuses_different_sets_and_names_an_example():
    full, part = {("p", 0): 1.0, ("p", 1): 1.0}, {("p", 0): 1.0}
    for first, second in ((full, part), (part, full)):
        with pytest.raises(UserError, match="prompt p, seed 1 is missing"):
            paired(rows("a", first) + rows("b", second), "a", "b", "correct")
    with pytest.raises(UserError, match="neither"):
        paired(rows("a", full) + rows("b", full), "a", "b", "other")


def test_paired_refuses_what_would_spoil_the_numbers():
    good = rows("b", {("p", 0): 1.0})
    with pytest.raises(UserError, match="twice"):
        paired(rows("a", {("p", 0): 1.0}) * 2 + good, "a", "b", "correct")
    with pytest.raises(UserError, match="finite"):
        paired(rows("a", {("p", 0): math.nan}) + good, "a", "b", "correct")
    with pytest.raises(UserError, match="tagged"):
        paired([EvidenceRow("a", "p", "counting", 0, "correct", 1.0), *good], "a", "b", "correct")
