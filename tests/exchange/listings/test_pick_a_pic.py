"""Pick-a-Pic's Parquet, written here as Hugging Face writes it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contrapose.containers.images import look
from contrapose.containers.left_out import Skip
from contrapose.errors import UserError
from contrapose.exchange.listings import Listing

Row = dict[str, Any]


@pytest.fixture
def row(picture: Callable[..., bytes]) -> Callable[..., Row]:
    def make(number: int, label: Any = 1.0, **changes: Any) -> Row:
        images = {"jpg_0": picture(2 * number), "jpg_1": picture(2 * number + 1, kind="JPEG")}
        return {**images, "label_0": label, "label_1": None, "caption": f"a cat {number}"} | changes

    return make


def _write(path: Path, rows: list[Row], group: int = 2) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=group)
    return path


def test_labels(tmp_path: Path, row: Callable[..., Row], picture: Any, listed: Any, reasons: Any) -> None:
    labels = [1.0, 0.0, 0.5, 0.25, None]
    path = _write(tmp_path / "pairs.parquet", [row(n, label) for n, label in enumerate(labels)])
    listing: Listing = listed(path)
    assert listing.format == "pick-a-pic"
    assert [pair.name for pair in listing.pairs] == [f"pairs.parquet row {n}" for n in (1, 2, 4)]
    assert [pair.prompt for pair in listing.pairs] == ["a cat 0", "a cat 1", "a cat 3"]
    assert [pair.preference for pair in listing.pairs] == [1.0, 1.0, 0.75]
    assert [pair.winner.read() for pair in listing.pairs] == [
        picture(0),
        picture(3, kind="JPEG"),
        picture(7, kind="JPEG"),
    ]
    assert [pair.loser.read() for pair in listing.pairs] == [picture(1, kind="JPEG"), picture(2), picture(6)]
    assert reasons(listing) == {
        "pairs.parquet row 3": "a tie; it is kept with --ties half",
        "pairs.parquet row 5": "has no label",
    }


def test_ties_may_be_kept(tmp_path: Path, row: Callable[..., Row], listed: Any) -> None:
    (pair,) = listed(_write(tmp_path / "a.parquet", [row(0, 0.5)]), ties="half").pairs
    assert (pair.preference, pair.winner.column) == (0.5, "jpg_0")


def test_labels_may_be_whole_numbers(tmp_path: Path, row: Callable[..., Row], listed: Any) -> None:
    listing = listed(_write(tmp_path / "a.parquet", [row(0, 0), row(1, 1)]))
    assert [pair.winner.column for pair in listing.pairs] == ["jpg_1", "jpg_0"]


@pytest.mark.parametrize(
    ("label", "told"),
    [("1", "'1'"), ("0", "'0'"), (True, "True"), (2.0, "2.0"), (-1.0, "-1.0"), (float("nan"), "nan")],
)
def test_labels_that_are_no_numbers(
    tmp_path: Path, row: Callable[..., Row], listed: Any, label: Any, told: str
) -> None:
    """As texts, "1" and "0" are both true, and the first image would always win."""
    other = label if isinstance(label, (str, bool)) else 1.0
    rows = [row(0, None), row(1, None), row(2, label), row(3, other)]
    with pytest.raises(UserError) as error:
        listed(_write(tmp_path / "a.parquet", rows))
    assert str(error.value) == (
        f"{tmp_path / 'a.parquet'}: row 3: `label_0` is {told}; write a number: 1 or 0, or 0.5 for a tie"
    )


def test_rows_that_cannot_be_used(tmp_path: Path, row: Callable[..., Row], listed: Any, reasons: Any) -> None:
    rows = [row(0, has_label=True), row(1, has_label=False), row(2, caption=" "), row(3, caption=None)]
    listing = listed(_write(tmp_path / "a.parquet", rows))
    assert len(listing.pairs) == 1
    assert list(reasons(listing).values()) == ["has no label", "has no caption", "has no caption"]


def test_images_as_hugging_face_has_them(tmp_path: Path, row: Callable[..., Row], picture: Any, listed: Any) -> None:
    """A column of images is one of {bytes, path}."""
    wrapped = row(0) | {"jpg_0": {"bytes": picture(0), "path": None}, "jpg_1": {"bytes": picture(1), "path": "a.jpg"}}
    (pair,) = listed(_write(tmp_path / "a.parquet", [wrapped])).pairs
    assert (pair.winner.read(), pair.loser.read()) == (picture(0), picture(1))


def test_a_folder_of_splits(tmp_path: Path, row: Callable[..., Row], listed: Any) -> None:
    for number, name in enumerate(("test-00000-of-00001-ab", "train-00000-of-00002-cd", "train-00001-of-00002-ef")):
        _write(tmp_path / "data" / f"{name}.parquet", [row(number)])
    with pytest.raises(UserError, match="has the splits test, train; choose one with --split"):
        listed(tmp_path)
    assert [pair.prompt for pair in listed(tmp_path, split="train").pairs] == ["a cat 1", "a cat 2"]
    assert [pair.prompt for pair in listed(tmp_path / "data", split="test").pairs] == ["a cat 0"]
    with pytest.raises(UserError, match=r"has no split dev \(found: test, train\)"):
        listed(tmp_path, split="dev")


def test_a_folder_of_files(tmp_path: Path, row: Callable[..., Row], listed: Any) -> None:
    for name in ("b", "a"):
        _write(tmp_path / f"{name}.parquet", [row(0), row(1)])
    assert [pair.name for pair in listed(tmp_path).pairs] == [f"{n}.parquet row {r}" for n in "ab" for r in (1, 2)]


def test_other_columns(tmp_path: Path, row: Callable[..., Row], listed: Any) -> None:
    without = {name: value for name, value in row(0).items() if name != "jpg_1"}
    with pytest.raises(
        UserError, match=r"a\.parquet: has no column jpg_1 \(columns found: jpg_0, label_0, label_1, cap"
    ):
        listed(_write(tmp_path / "a.parquet", [without]))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_truncated_file(tmp_path: Path, row: Callable[..., Row], listed: Any, share: float) -> None:
    path = _write(tmp_path / "a.parquet", [row(n) for n in range(4)])
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(UserError, match=r"a\.parquet: is cut short or not a Parquet file"):
        listed(path)


MEASURE = """
import sys
import pyarrow as pa
from contrapose.containers.images import look, several
from contrapose.exchange.listings import Reading, source_pairs
from pathlib import Path
listing = source_pairs(Path(sys.argv[1]), Reading())
before = pa.default_memory_pool().max_memory()
num = sum(1 for _ in several(look, ((pair.winner, pair.loser) for pair in listing.pairs)))
print(num, before, pa.default_memory_pool().max_memory())
"""


@pytest.mark.parametrize("group", [10, 600])
def test_memory_does_not_grow_with_the_images(tmp_path: Path, picture: Any, group: int) -> None:
    """600 pairs, in groups of 10 or all in one: Arrow holds a few images at a time, and to list next to nothing."""
    images = [picture(n, (64, 64)) for n in range(20)]
    rows = [
        {"jpg_0": images[n % 20], "jpg_1": images[(n + 1) % 20], "label_0": 1, "caption": f"{n}"} for n in range(600)
    ]
    pages = {"write_batch_size": 16, "data_page_size": 1 << 16}  # Parquet's smallest unit, of 1,024 rows otherwise
    table = pa.Table.from_pylist(rows)
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=group, use_dictionary=False, **pages)
    size = (tmp_path / "a.parquet").stat().st_size
    told = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path / "a.parquet")], check=True, capture_output=True, text=True
    ).stdout
    num, listing, looking = map(int, told.split())
    assert num == 600 and size > 12e6
    assert listing < size / 20
    assert looking < size / 3


def test_cells_are_found_in_any_order(tmp_path: Path, row: Callable[..., Row], listed: Any) -> None:
    """Backwards, by several threads, and from a table that was written in several groups."""
    rows = [row(n) for n in range(150)]
    for group in (7, 150):
        pairs = listed(_write(tmp_path / f"{group}.parquet", rows, group)).pairs
        order = [*range(150), *np.random.default_rng(0).permutation(150)]
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda n: (pairs[n].winner.read(), pairs[n].loser.read()), order))  # noqa: B023
        assert all(pair == (rows[n]["jpg_0"], rows[n]["jpg_1"]) for n, pair in zip(order, found, strict=True))


def test_a_page_that_is_broken_leaves_out_its_pairs(tmp_path: Path, row: Callable[..., Row], listed: Any) -> None:
    path = _write(tmp_path / "a.parquet", [row(n) for n in range(20)], 5)
    place = pq.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
    data = bytearray(path.read_bytes())
    data[place : place + 40] = bytes(40)
    path.write_bytes(data)
    pairs = listed(path).pairs
    for number, pair in enumerate(pairs):
        with pytest.raises(Skip, match="cannot be read") if 5 <= number < 10 else nullcontext():
            look((pair.winner, pair.loser))
