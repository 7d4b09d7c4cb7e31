"""Names and places of files as they come from other systems: found, or left out with the reason that mends them."""

from __future__ import annotations

import io
import json
import os
import unicodedata
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from contrapose.containers.images import read_image
from contrapose.containers.left_out import SKIPPED, LeftOut, Skip, write_left_out
from contrapose.errors import UserError
from contrapose.exchange.listings import Reading, folder_pairs, source_pairs
from contrapose.photographs.photos import Photo, list_photos

NFC, NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


def _picture(kind: str = "PNG", colour: str = "red") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(file, kind)
    return file.getvalue()


def _write(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def _reasons(source: Path) -> dict[str, str]:
    return {photo.name: photo.reason for photo in list_photos(source) if isinstance(photo, LeftOut)}


def _metadata(folder: Path, **fields: object) -> Path:
    row = {"image_0": "0.png", "image_1": "1.png", "prompt": "a picture", "prefer_0": 1, "prefer_1": 0} | fields
    return _write(folder / "metadata.jsonl", json.dumps(row))


def test_every_name_of_a_format_that_is_read(tmp_path: Path) -> None:
    for ending in (".jfif", ".jpe", ".pjpeg", ".mpo"):
        _write(tmp_path / f"a{ending}", _picture("JPEG"))
    _write(tmp_path / "a.APNG", _picture())
    _write(tmp_path / "a.dib", _picture("BMP"))
    photos = [photo for photo in list_photos(tmp_path) if isinstance(photo, Photo)]
    assert len(photos) == 6
    assert all(read_image(photo.image).size == (8, 8) for photo in photos)


def test_images_of_other_formats_are_counted(tmp_path: Path) -> None:
    _write(tmp_path / "a.png", _picture())
    endings = (".avif", ".heic", ".HEIF", ".jp2", ".jxl", ".ppm", ".tga", ".svg")
    for ending in endings:
        _write(tmp_path / f"b{ending}", b"x")
    _write(tmp_path / "c.md", b"x")
    reasons = _reasons(tmp_path)
    assert set(reasons) == {f"b{ending}" for ending in endings}
    assert "its format is not read (PNG, JPEG," in reasons["b.heic"]
    for side in ("good", "bad"):
        _write(tmp_path / side / "a.heic", b"x")
        _write(tmp_path / side / "b.png", _picture())
    _write(tmp_path / "good" / "b.txt", "a picture")
    listing = folder_pairs(tmp_path / "good", tmp_path / "bad")
    assert [pair.name for pair in listing.pairs] == ["b"]
    assert "a.heic: its format is not read" in listing.left_out[0].reason


@pytest.mark.parametrize(("winner", "text", "loser"), [(NFC, NFC, NFD), (NFD, NFC, NFC), (NFC, NFD, NFD)])
def test_both_ways_to_write_an_accent_are_one_name_in_two_folders(
    tmp_path: Path, winner: str, text: str, loser: str
) -> None:
    _write(tmp_path / "good" / f"{winner}.png", _picture())
    _write(tmp_path / "good" / f"{text}.txt", "a picture")
    _write(tmp_path / "bad" / f"{loser}.png", _picture())
    listing = folder_pairs(tmp_path / "good", tmp_path / "bad")
    assert [(pair.name, pair.prompt) for pair in listing.pairs] == [(NFC, "a picture")]


@pytest.mark.parametrize(("said", "there"), [(NFC, NFD), (NFD, NFC)])
def test_both_ways_to_write_an_accent_are_one_name_in_a_table(tmp_path: Path, said: str, there: str) -> None:
    for name in (f"{there}.png", "1.png"):
        _write(tmp_path / name, _picture())
    assert len(source_pairs(_metadata(tmp_path, image_0=f"{said}.png"), Reading()).pairs) == 1
    table = _write(tmp_path / "p" / "metadata.csv", f"file_name,text\n{said}.png,a picture\n")
    _write(tmp_path / "p" / f"{there}.png", _picture())
    [photo] = list_photos(table)
    assert isinstance(photo, Photo)
    (tmp_path / "p" / "metadata.csv").unlink()
    _write(tmp_path / "p" / f"{said}.txt", "a picture")
    [photo] = list_photos(tmp_path / "p")
    assert isinstance(photo, Photo) and photo.caption == "a picture"


def test_a_path_of_windows_is_told_what_it_is(tmp_path: Path) -> None:
    [skipped] = source_pairs(_metadata(tmp_path, image_0="images\\0.png"), Reading()).left_out
    assert skipped.reason == "images\\0.png: no such file; write / between folders, not \\"


def test_folders_deeper_than_python_can_call(tmp_path: Path) -> None:
    deep = tmp_path
    for _ in range(1200):
        deep /= "a"
        deep.mkdir()
    (deep / "0.png").write_bytes(_picture())
    try:
        [photo] = list_photos(tmp_path)
        assert isinstance(photo, Photo) and photo.name == "a/" * 1200 + "0.png"
        assert read_image(photo.image).size == (8, 8)
    finally:  # pytest could not
        (deep / "0.png").unlink()
        while deep != tmp_path:
            deep.rmdir()
            deep = deep.parent


def test_folders_that_cannot_be_read_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(tmp_path / "a" / "0.png", _picture())
    _write(tmp_path / "b" / "0.png", _picture())
    scandir = os.scandir

    def refuse(folder: Path) -> object:
        if Path(folder).name == "a":
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    assert [photo.name for photo in list_photos(tmp_path)] == ["a", "b/0.png"]
    assert _reasons(tmp_path) == {"a": "is a folder that cannot be read (Permission denied)"}
    with pytest.raises(UserError, match="a: cannot be read"):
        list(list_photos(tmp_path / "a"))


def test_the_folder_that_is_written_is_no_source(tmp_path: Path) -> None:
    for name in ("0.png", "out/images/1.png", "outer/2.png"):
        _write(tmp_path / name, _picture())
    assert [photo.name for photo in list_photos(tmp_path, skip=tmp_path / "x" / ".." / "out")] == [
        "0.png",
        "outer/2.png",
    ]


def test_half_a_character_is_told_in_a_file_that_can_be_read(tmp_path: Path) -> None:
    table = _write(tmp_path / "p.jsonl", '{"file_name": "\\ud83d.png", "text": "a"}\n{"file_name": "b\\udcff.png"}')
    reasons = [photo.reason for photo in list_photos(table) if isinstance(photo, LeftOut)]
    assert reasons == ["\ud83d.png: no such file", "b\udcff.png: no such file"]
    write_left_out(tmp_path, (LeftOut("name", "kind", reason) for reason in reasons))
    lines = (tmp_path / SKIPPED).read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["reason"] for line in lines] == reasons


DEGRADED = [(5, r"row 1: `degraded_prompt` is 5; write a text"), (True, "is True"), (["a"], r"is \['a'\]")]


@pytest.mark.parametrize(("degraded", "message"), DEGRADED)
def test_a_degraded_prompt_is_a_text(tmp_path: Path, degraded: object, message: str) -> None:
    row = {"jpg_0": _picture(), "jpg_1": _picture(), "label_0": 1.0, "caption": "a", "degraded_prompt": degraded}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=message):
        source_pairs(tmp_path / "a.parquet", Reading())


@pytest.mark.parametrize(("degraded", "kept"), [(None, ""), ("", ""), ("b", "b")])
def test_a_degraded_prompt_may_be_left_out(tmp_path: Path, degraded: str | None, kept: str) -> None:
    row = {"jpg_0": _picture(), "jpg_1": _picture(), "label_0": 1.0, "caption": "a", "degraded_prompt": degraded}
    pq.write_table(pa.Table.from_pylist([row, {**row, "degraded_prompt": "x\0"}]), tmp_path / "a.parquet")
    listing = source_pairs(tmp_path / "a.parquet", Reading())
    assert [pair.degraded for pair in listing.pairs] == [kept]
    assert "holds a NUL" in listing.left_out[0].reason


@pytest.mark.parametrize("columns", [{"caption": [None, "", "x"], "text": ["a", "a", "y"]}, {"text": ["a", "a", "x"]}])
def test_the_first_column_with_words_in_it_captions(tmp_path: Path, columns: dict[str, list[str | None]]) -> None:
    pq.write_table(pa.table({"image": [_picture()] * 3, **columns}), tmp_path / "a.parquet")
    captions = [photo.caption for photo in list_photos(tmp_path / "a.parquet") if isinstance(photo, Photo)]
    assert captions == ["a", "a", "x"]


IMAGES = {
    "addresses": pa.array(["https://example.org/a.jpg"]),
    "numbers": pa.array([5]),
    "lists": pa.array([[137, 80]]),
    "structs of other things": pa.array([{"url": "x"}]),
}


@pytest.mark.parametrize("column", IMAGES.values(), ids=IMAGES)
def test_a_column_that_holds_no_image_files_is_named(tmp_path: Path, column: pa.Array) -> None:
    pairs = {"jpg_0": column, "jpg_1": column, "label_0": [1.0], "caption": ["a"]}
    pq.write_table(pa.table(pairs), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet: its column jpg_0 is of .*; write image files as bytes"):
        source_pairs(tmp_path / "a.parquet", Reading())
    pq.write_table(pa.table({"image": column}), tmp_path / "b.parquet")
    with pytest.raises(UserError, match=r"b\.parquet: its column image is of .*; write image files as bytes"):
        list(list_photos(tmp_path / "b.parquet"))


@pytest.mark.parametrize("kind", ["binary", "large_binary", "dictionary", "struct"])
def test_every_column_of_bytes_is_read(tmp_path: Path, kind: str) -> None:
    column = pa.array([_picture()])
    columns = {
        "binary": column, "large_binary": column.cast(pa.large_binary()), "dictionary": column.dictionary_encode(),
        "struct": pa.array([{"bytes": _picture(), "path": "a.png"}]),
    }  # fmt: skip
    pq.write_table(pa.table({"image": columns[kind]}), tmp_path / "a.parquet")
    [photo] = list_photos(tmp_path / "a.parquet")
    assert isinstance(photo, Photo) and read_image(photo.image).size == (8, 8)


def test_a_path_in_place_of_an_image_is_told(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [{"bytes": None, "path": "photos/a.jpg"}]}), tmp_path / "a.parquet")
    [photo] = list_photos(tmp_path / "a.parquet")
    with pytest.raises(Skip, match="it is the path of an image, not the image"):
        read_image(photo.image)


def test_splits_in_folders_are_never_mixed(tmp_path: Path) -> None:
    """As Hugging Face's conversion lays them out."""
    for split in ("train", "test"):
        path = tmp_path / "default" / split / "0000.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(pa.table({"image": [_picture()], "text": ["a"]}), path)
    with pytest.raises(UserError, match="has the splits test, train; choose one with --split"):
        list(list_photos(tmp_path))
    assert [photo.name for photo in list_photos(tmp_path, "train")] == ["default/train/0000.parquet row 1"]
    with pytest.raises(UserError, match=r"has no split dev \(found: test, train\)"):
        list(list_photos(tmp_path, "dev"))
    assert len(list(list_photos(tmp_path / "default" / "train"))) == 1
