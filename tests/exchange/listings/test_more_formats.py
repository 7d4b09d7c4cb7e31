"""Pairs as TRL, open-image-preferences and HPDv2 list them, and any format in any container, here or elsewhere."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contrapose.backbones.families.table import load_backbone
from contrapose.cli.main import main
from contrapose.containers.images import read_image
from contrapose.containers.left_out import LeftOut
from contrapose.containers.places import Remote, place_of
from contrapose.containers.row import ContainerRow
from contrapose.errors import UserError
from contrapose.exchange import listings
from contrapose.exchange.imports import Import, import_pairs, plan_import, read_listing
from contrapose.exchange.listings import Listing
from contrapose.exchange.listings.listed import Format, Listed, Reading, each
from contrapose.photographs.photos import Photo, count_and_digest, list_photos
from contrapose.store.fitting import Fitting
from contrapose.store.groups import GroupStore
from contrapose.store.prompts import read_prompts

Rows = list[dict[str, Any]]


def _json_lines(path: Path, rows: Rows) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _json_list(path: Path, rows: Rows) -> None:
    path.write_text(json.dumps(rows))


def _csv(path: Path, rows: Rows, delimiter: str = ",") -> None:
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0], delimiter=delimiter)
        table.writeheader()
        table.writerows(rows)


WRITERS: dict[str, Callable[[Path, Rows], None]] = {
    "p.jsonl": _json_lines,
    "p.json": _json_list,
    "p.csv": _csv,
    "p.tsv": lambda path, rows: _csv(path, rows, "\t"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png"):
        (tmp_path / name).touch()
    return tmp_path


FORMATS: dict[str, dict[str, Any]] = {
    "chosen": {"prompt": "a cat", "chosen": "a.png", "rejected": "b.png"},
    "metadata": {"prompt": "a cat", "image_0": "a.png", "image_1": "b.png", "prefer_0": 1, "prefer_1": 0},
    "real-fake": {"prompt": "a cat", "real_image_path": "a.png", "fake_image_path": "b.png"},
    "hpdv3": {"prompt": "a cat", "path1": "a.png", "path2": "b.png"},
}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", WRITERS)
def test_a_format_in_any_container(folder: Path, name: str, format: str, listed: Any) -> None:
    WRITERS[name](folder / name, [FORMATS[format]] * 3)
    listing = listed(folder / name)
    assert (listing.format, len(listing.pairs)) == (format, 3)
    for pair in listing.pairs:
        assert (pair.prompt, pair.winner.path.name, pair.loser.path.name) == ("a cat", "a.png", "b.png")


@pytest.mark.parametrize("as_struct", [True, False])
def test_chosen_and_rejected_images_in_parquet(tmp_path: Path, as_struct: bool, picture: Any, listed: Any) -> None:
    """As open-image-preferences has them, beside columns of other types."""
    cells = [{"bytes": picture(number), "path": None} if as_struct else picture(number) for number in range(2)]
    row = {"prompt": ["a cat"], "chosen": [cells[0]], "rejected": [cells[1]], "images": [[cells[0], cells[1]]]}
    pq.write_table(pa.table(row), tmp_path / "train-00000-of-00001.parquet")
    (pair,) = listed(tmp_path).pairs
    assert (pair.prompt, pair.winner.read(), pair.loser.read()) == ("a cat", picture(0), picture(1))


def test_prompts_that_are_no_text_are_left_out(folder: Path, listed: Any, reasons: Any) -> None:
    _json_lines(folder / "p.jsonl", [FORMATS["chosen"] | {"prompt": None}, FORMATS["chosen"] | {"prompt": ["a", "b"]}])
    listing = listed(folder / "p.jsonl")
    assert reasons(listing) == {"line 1": "has no caption"}
    assert [pair.prompt for pair in listing.pairs] == ["a"]


@pytest.mark.parametrize("key", ["image_path", "file_path"])
def test_hpdv2(folder: Path, key: str, listed: Any, reasons: Any) -> None:
    row = {"prompt": "a cat", key: ["a.png", "b.png"], "human_preference": [0, 1], "user_hash": "x"}
    alone = row | {key: ["a.png"], "human_preference": [1]}
    _json_list(
        folder / "train.json", [row, row | {"human_preference": [1, 0]}, alone, row | {"human_preference": [0, 0]}]
    )
    listing = listed(folder / "train.json")
    assert listing.format == "hpdv2"
    assert [pair.winner.path.name for pair in listing.pairs] == ["b.png", "a.png"]
    assert reasons(listing) == {
        "entry 3": "ranks 1 images, which says nothing",
        "entry 4": "a tie; it is kept with --ties half",
    }


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"human_preference": ["1", "0"]}, r"entry 1: `human_preference` is \['1', '0'\]; write \[1, 0\] or \[0, 1\]"),
        ({"human_preference": [1]}, "are not two lists of one length"),
        ({"image_path": "a.png"}, "are not two lists of one length"),
        ({"image_path": ["a.png", 3]}, "write the names of two files"),
    ],
)
def test_hpdv2_that_is_wrong(folder: Path, changes: dict[str, Any], told: str, listed: Any) -> None:
    row = {"prompt": "a cat", "image_path": ["a.png", "b.png"], "human_preference": [1, 0]} | changes
    _json_list(folder / "train.json", [row])
    with pytest.raises(UserError, match=told):
        listed(folder / "train.json")


def test_hpdv2_of_more_than_two_images_is_a_group(folder: Path, listed: Any, reasons: Any) -> None:
    row = {"prompt": "a cat", "image_path": ["a.png", "b.png", "a.png"], "human_preference": [0.5, 1, 0]}
    _json_list(folder / "test.json", [row, row | {"human_preference": [1, 1, 1]}])
    listing = listed(folder / "test.json")
    [group] = listing.pairs
    assert [image.path.name for image in group.images] == ["a.png", "b.png", "a.png"]
    assert (group.labels, group.winner, group.loser) == ((0.5, 1.0, 0.0), group.images[1], group.images[2])
    assert reasons(listing) == {"entry 2": "a tie of all; it is kept with --ties half"}
    [_, tied] = listed(folder / "test.json", ties="half").pairs
    assert tied.labels == (1.0, 1.0, 1.0)


def test_hpdv2_by_rank(folder: Path, listed: Any, reasons: Any) -> None:
    """The smaller rank is better; only the order counts, and equal ranks are equal labels."""
    three = {"prompt": "a cat", "image_path": ["a.png", "b.png", "a.png"], "rank": [7, 1, 3]}
    two = {"prompt": "a cat", "image_path": ["a.png", "b.png"], "rank": [2, 1]}
    both = two | {"human_preference": [1, 0]}
    rows = [three, three | {"rank": [0, 5, 0]}, two, both, two | {"rank": [1, 1]}, three | {"rank": [4, 4, 4]}]
    _json_list(folder / "test.json", rows)
    listing = listed(folder / "test.json")
    assert listing.format == "hpdv2"
    assert [group.labels for group in listing.pairs] == [(0.0, 1.0, 0.5), (1.0, 0.0, 1.0), (1.0, 0.0), (1.0, 0.0)]
    # the two of a pair stand winner first; a preference goes before a rank
    assert [group.winner.path.name for group in listing.pairs[2:]] == ["b.png", "a.png"]
    assert reasons(listing) == {
        "entry 5": "a tie; it is kept with --ties half",
        "entry 6": "a tie of all; it is kept with --ties half",
    }
    assert [group.labels for group in listed(folder / "test.json", ties="half").pairs[4:]] == [(0.5, 0.5), (1.0,) * 3]


@pytest.mark.parametrize("ranks", [["1", "2"], [1, True], [1, None]])
def test_hpdv2_by_rank_that_is_wrong(folder: Path, ranks: list[Any], listed: Any) -> None:
    _json_list(folder / "test.json", [{"prompt": "a cat", "image_path": ["a.png", "b.png"], "rank": ranks}])
    with pytest.raises(UserError, match=r"entry 1: `rank` is \[.*; write numbers, such as \[1, 2, 3\]"):
        listed(folder / "test.json")


def test_a_limit_reads_no_further(folder: Path) -> None:
    _json_lines(folder / "p.jsonl", [FORMATS["chosen"]] * 5)
    with (folder / "p.jsonl").open("a") as file:
        file.write("broken")
    listing = listings.source_pairs(folder / "p.jsonl", Reading(), limit=4)
    assert len(listing.pairs) == 4


def test_a_format_is_one_file_and_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that a new format says is how a row of it becomes a pair, in whatever container it comes."""

    def pair(row: ContainerRow, reading: Reading) -> Listed:
        first = row.number("weighted_results_image1_preference") > 0.5
        images = row.image("image1", reading.folder(row)), row.image("image2", reading.folder(row))
        winner, loser = images if first else reversed(images)
        return Listed.pair(row.name, row.caption("prompt"), winner, loser)

    columns = ("prompt", "image1", "image2", "weighted_results_image1_preference")
    monkeypatch.setitem(listings.FORMATS, "rapidata", Format(columns[1:], each(pair, columns), columns))
    row = {"prompt": "a cat", "image1": "a.png", "image2": "b.png", "weighted_results_image1_preference": 0.2}
    for name, write in WRITERS.items():
        write(folder / name, [row])
        listing = listings.source_pairs(folder / name, Reading())
        assert (listing.format, listing.pairs[0].winner.path.name) == ("rapidata", "b.png")


# On another machine


class HubStub(fsspec.AbstractFileSystem):  # type: ignore[misc]
    """A stand-in for huggingface_hub's file system: a folder, which also says what was asked for."""

    protocol = "hf"
    cachable = False
    root: Path
    opened: list[str]

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        self.opened.append(path)
        return (self.root / path).open(mode)

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        place = self.root / self._strip_protocol(path)
        if not place.exists():
            raise FileNotFoundError(path)
        kind = "directory" if place.is_dir() else "file"
        return {"name": path, "size": place.stat().st_size, "type": kind, "blob_id": "abc"}

    def ls(self, path: str, detail: bool = True, **options: Any) -> list[Any]:
        infos = [self.info(f"{path}/{place.name}") for place in sorted((self.root / path).iterdir())]
        return infos if detail else [info["name"] for info in infos]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(HubStub, "root", tmp_path, raising=False)
    monkeypatch.setattr(HubStub, "opened", [], raising=False)
    monkeypatch.setattr("contrapose.containers.places._file_system", lambda protocol: HubStub())
    folder = tmp_path / "datasets" / "someone" / "pairs"
    folder.mkdir(parents=True)
    yield folder


SOURCE = Path("hf://datasets/someone/pairs")


def test_a_path_of_the_hub_survives_being_a_path() -> None:
    assert place_of(SOURCE) == Remote("hf", PurePosixPath("datasets/someone/pairs"))
    assert str(place_of(SOURCE)) == "hf://datasets/someone/pairs"
    assert place_of(Path("hf/datasets")) == Path("hf/datasets")


def test_pairs_of_the_hub(hub: Path, picture: Any, listed: Any) -> None:
    (hub / "data").mkdir()
    for split in ("train", "test"):
        row = {"prompt": [split], "chosen": [picture(0)], "rejected": [picture(1)]}
        pq.write_table(pa.table(row), hub / "data" / f"{split}-00000-of-00001.parquet")
    with pytest.raises(UserError, match=r"hf://datasets/someone/pairs: has the splits test, train; choose one"):
        listed(SOURCE)
    (pair,) = listed(SOURCE, split="train").pairs
    assert (pair.prompt, pair.winner.read(), pair.loser.read()) == ("train", picture(0), picture(1))
    assert read_image(pair.winner).size == (16, 16)


def test_a_network_that_fails_is_told_in_one_line(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(self: HubStub, path: str, **options: Any) -> Any:
        raise RuntimeError("no route to host")

    monkeypatch.setattr(HubStub, "info", fails)
    folders = ["--winners", str(SOURCE), "--losers", str(SOURCE)]
    assert main(["pairs", "import", "--model", "m", *folders, "--out", str(tmp_path / "out")]) == 2
    assert f"{place_of(SOURCE)}: no route to host; check the path" in capsys.readouterr().err
    with pytest.raises(OSError, match="no route to host") as error:
        list_photos(SOURCE)
    assert error.value.filename == str(place_of(SOURCE))


def test_likes_of_several_files_are_told_by_their_files(tmp_path: Path, picture: Any, listed: Any) -> None:
    for number in range(2):
        row = {"prompt": [f"{number}"], "completion": [picture(number)], "label": [True]}
        pq.write_table(pa.table(row), tmp_path / f"{number}.parquet")
    assert [entry.name for entry in listed(tmp_path).left_out] == ["0.parquet row 1", "1.parquet row 1"]


def test_pairs_of_the_hub_become_a_store(hub: Path, tmp_path: Path, tiny_model: Path, picture: Any) -> None:
    rows = [
        {"prompt": f"a cat {n}", "chosen": picture(n, (64, 64)), "rejected": picture(9, (64, 64))} for n in range(4)
    ]
    pq.write_table(pa.Table.from_pylist(rows), hub / "p.parquet")
    settings = Import(str(tiny_model), source=SOURCE, limit=3, fitting=Fitting(resolution=32))
    backbone = load_backbone(str(tiny_model))
    for _ in range(2):  # a second time finds it done
        plan = plan_import(settings, read_listing(settings), backbone)
        assert list(import_pairs(settings, plan, backbone, tmp_path / "out"))[-1] == 3
    assert [record.prompt for record in GroupStore(tmp_path / "out").records] == [f"a cat {n}" for n in range(3)]


def test_tables_and_prompts_of_the_hub(hub: Path, listed: Any, reasons: Any) -> None:
    for name in ("a.png", "b.png"):
        (hub / name).touch()
    out = FORMATS["chosen"] | {"chosen": "../other/a.png"}
    _json_lines(hub / "metadata.jsonl", [FORMATS["chosen"], out, FORMATS["chosen"] | {"chosen": "c.png"}])
    listing: Listing = listed(SOURCE)
    assert str(listing.pairs[0].winner.path) == "hf://datasets/someone/pairs/a.png"
    assert reasons(listing) == {"line 2": "../other/a.png: leaves the folder", "line 3": "c.png: no such file"}
    (hub / "p.txt").write_text("\ufeffa cat\n\na dog\n")
    assert [prompt.text for prompt in read_prompts(SOURCE / "p.txt")] == ["a cat", "a dog"]
    with pytest.raises(UserError, match=r"hf://datasets/someone/pairs/none\.csv: no such file or folder"):
        listed(SOURCE / "none.csv")


def test_photographs_of_the_hub(hub: Path, picture: Any) -> None:
    (hub / "in" / "deep").mkdir(parents=True)
    (hub / "in" / "1.png").write_bytes(picture(0))
    (hub / "in" / "1.caption").write_text("a cat")
    (hub / "in" / "deep" / "2.png").write_bytes(picture(1))
    photos = list(list_photos(SOURCE))
    assert [(photo.name, photo.caption) for photo in photos if isinstance(photo, Photo)] == [
        ("in/1.png", "a cat"),
        ("in/deep/2.png", None),
    ]
    assert count_and_digest(list_photos(SOURCE)) == count_and_digest(photos)
    assert not any(isinstance(photo, LeftOut) for photo in photos)


def test_a_stream_is_read_as_far_as_is_asked(hub: Path) -> None:
    """And what a network says becomes one line."""
    _json_lines(hub / "p.jsonl", [FORMATS["chosen"]] * 50_000)
    listing = listings.source_pairs(SOURCE / "p.jsonl", Reading(), limit=3)
    assert len(listing.left_out) == 3, "none of the files is there"


def test_what_a_network_says_is_one_line(hub: Path, monkeypatch: pytest.MonkeyPatch, listed: Any) -> None:
    def refuse(self: HubStub, path: str, **options: Any) -> Any:
        raise RuntimeError("401 Client Error.\nRepository Not Found")

    monkeypatch.setattr(HubStub, "info", refuse)
    monkeypatch.setattr(HubStub, "exists", refuse)
    with pytest.raises(UserError, match=r"hf://datasets/someone/pairs: .*401 Client Error\. Repository Not Found"):
        listed(SOURCE)
