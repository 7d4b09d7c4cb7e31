"""Rows survive the disk, and only like is compared with like."""

from __future__ import annotations

import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import contrapose.evaluate.rows as of_rows
from contrapose.errors import UserError
from contrapose.evaluate.rows import EvidenceRow, Rows, paired, prompt_id, read_rows, write_rows


def rows(model: str, values: dict[tuple[str, int], float], metric: str = "correct") -> list[EvidenceRow]:
    return [EvidenceRow(model, name, "colors", seed, metric, value) for (name, seed), value in values.items()]


def test_rows_survive_the_disk(tmp_path):
    written = [
        EvidenceRow("a", "00000-1", "colors", 3, "correct", 0.1 + 0.2, "expected cat"),
        EvidenceRow("b", "é", "t", 0, "m", -1.0),
    ]
    write_rows(written, tmp_path / "deep" / "rows.parquet")
    assert list(read_rows(tmp_path / "deep" / "rows.parquet")) == written
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["rows.parquet"]


def test_rows_in_columns_are_read_like_a_list(monkeypatch):
    monkeypatch.setattr(of_rows, "_AT_ONCE", 3)  # so that they come in several parts
    reasons = [None, "why"]
    listed = [EvidenceRow(f"m{n % 2}", f"p{n % 3}", "t", n, f"k{n % 4}", n / 7, reasons[n % 2]) for n in range(10)]
    columns = Rows.of(iter(listed))
    assert Rows.of(columns) is columns
    assert list(columns) == listed and len(columns) == 10
    assert (columns[0], columns[-1]) == (listed[0], listed[-1])
    with pytest.raises(IndexError):
        columns[10]
    assert list(columns[2:8:3]) == listed[2:8:3] and list(columns[::-1]) == listed[::-1]
    assert list(columns + columns[:2]) == listed + listed[:2]
    assert columns.models == ["m0", "m1"] and columns.metrics == ["k0", "k1", "k2", "k3"]
    assert columns.metrics_of("m1") == ["k1", "k3"]
    assert list(columns.rows_of("m0", "k2")) == [listed[2], listed[6]] and list(columns.rows_of("m0", "k1")) == []
    assert columns.values_of("k3").tolist() == [3 / 7, 1.0] and columns.values_of("none").tolist() == []
    assert columns.tags_of("m0") == {"p0": "t", "p2": "t", "p1": "t"}
    assert (columns.num_images("m0"), columns.num_images("m0", "k0"), columns.num_images("x", "y")) == (5, 3, 0)
    assert list(Rows.of([])) == [] and Rows.of([]).models == []


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
