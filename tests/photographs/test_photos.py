"""Photographs are found in every layout that people keep them in, in one order, and never outside of their folder."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
import time
import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from contrapose.containers import row
from contrapose.containers.images import read_image
from contrapose.containers.left_out import LeftOut
from contrapose.errors import UserError
from contrapose.photographs.photos import Photo, list_photos

COLOURS = ("red", "lime", "blue", "white", "black")
NAMED = {"red": (255, 0, 0), "lime": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255), "black": (0, 0, 0)}


def _image(colour: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(file, "PNG")
    return file.getvalue()


def _write(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def _found(source: Path, split: str | None = None) -> list[tuple[str, str, str | None]]:
    """Name, colour and caption of each photograph; of a skipped one its name, 'skipped' and the reason."""
    colours = {value: name for name, value in NAMED.items()}
    found = []
    for photo in list_photos(source, split):
        if isinstance(photo, LeftOut):
            found.append((photo.name, "skipped", photo.reason))
        else:
            found.append((photo.name, colours[read_image(photo.image).getpixel((1, 1))], photo.caption))
    assert len({name for name, *_ in found}) == len(found), "names are unique"
    assert str(source.parent) not in repr(found)
    return found


# A folder of images


def test_a_folder_and_those_below(tmp_path: Path) -> None:
    _write(tmp_path / "b.PNG", _image("red"))
    _write(tmp_path / "b.txt", "\ufeffa red\n  square ")
    _write(tmp_path / "a" / "z.gif", _image("lime"))
    _write(tmp_path / "c" / "d" / "x.webp", _image("blue"))
    _write(tmp_path / "c" / "d" / "x.txt", b"\xff\xfe\x00")  # not UTF-8
    _write(tmp_path / "e.jpg", _image("white"))
    _write(tmp_path / "e.txt", "  \n")
    for ignored in ("notes.md", ".hidden.png", ".git/x.png", "__MACOSX/._b.png", "other.csv"):
        _write(tmp_path / ignored, _image("black"))
    assert _found(tmp_path) == [
        ("a/z.gif", "lime", None),
        ("b.PNG", "red", "a red square"),
        ("c/d/x.webp", "blue", None),
        ("e.jpg", "white", None),
    ]
    fields = {photo.name: photo.fields for photo in list_photos(tmp_path) if photo.caption is None}
    assert fields == {"a/z.gif": "image", "c/d/x.webp": "image; x.txt: is not readable as UTF-8", "e.jpg": "image"}


def test_links_out_of_the_folder(tmp_path: Path) -> None:
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    secret = _write(outside / "x.png", _image("red"))
    _write(outside / "words.txt", "a secret")
    _write(inside / "fine.png", _image("lime"))
    (inside / "fine.txt").symlink_to(outside / "words.txt")
    (inside / "link.png").symlink_to(secret)
    (inside / "to.png").symlink_to(inside / "fine.png")
    (inside / "loop.png").symlink_to(inside / "loop.png")
    (inside / "folder").symlink_to(outside, target_is_directory=True)
    (inside / "round").symlink_to(inside, target_is_directory=True)
    assert _found(inside) == [
        ("fine.png", "lime", None),
        ("folder", "skipped", "is a link to a folder, which is not followed"),
        ("link.png", "skipped", "link.png: is a link that leads out of the folder"),
        ("loop.png", "skipped", "loop.png: no such file"),
        ("round", "skipped", "is a link to a folder, which is not followed"),
        ("to.png", "lime", None),
    ]


@pytest.mark.parametrize("name", ["p.parquet", "p.tar", "metadata.csv"])
def test_listings_that_are_links_out_of_the_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).symlink_to(_write(tmp_path / name, "secret"))
    assert _found(tmp_path / "in") == [(name, "skipped", f"{name}: is a link that leads out of the folder")]


def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    try:
        _write(Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")), _image("red"))
    except OSError:
        pytest.skip("this file system has none")
    assert _found(tmp_path) == [("caf\\xe9.png", "skipped", "its name is not UTF-8; rename it")]


# Tables


def _table(path: Path, rows: list[dict[str, object]]) -> Path:
    if path.suffix == ".jsonl":
        return _write(path, "\ufeff" + "".join(json.dumps(row) + "\r\n\r\n" for row in rows))
    lines = [",".join(rows[0]), *(",".join(f'"{value}"' for value in row.values()) for row in rows)]
    return _write(path, "\ufeff" + "\r\n".join(lines))


@pytest.mark.parametrize("whole", [True, False], ids=["folder", "file"])
@pytest.mark.parametrize("file", ["file_name", "file_path", "image", "real_image_path"])
@pytest.mark.parametrize("text", ["text", "caption", "prompt"])
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_table(tmp_path: Path, kind: str, file: str, text: str, whole: bool) -> None:
    _write(tmp_path / "train" / "img" / "1.png", _image("red"))
    _write(tmp_path / "train" / "unlisted.png", _image("lime"))
    rows: list[dict[str, object]] = [
        {"uid": 1, file: "img/1.png", text: "one,  two"},
        {"uid": 2, file: "img/1.png", text: ""},
        {"uid": 3, file: "img/2.png", text: "gone"},
    ]
    table = _table(tmp_path / "train" / f"metadata.{kind}", rows)
    label = f"train/{table.name}" if whole else table.name
    lines = [1, 3, 5] if kind == "jsonl" else [2, 3, 4]
    assert _found(tmp_path if whole else table) == [
        (f"{label} line {lines[0]}", "red", "one, two"),
        (f"{label} line {lines[1]}", "red", None),
        (f"{label} line {lines[2]}", "skipped", "img/2.png: no such file"),
    ]


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
@pytest.mark.parametrize("name", ["../secret.png", "/etc/hostname", "link.png", "a/../../secret.png"])
def test_tables_do_not_leave_their_folder(tmp_path: Path, kind: str, name: str) -> None:
    _write(tmp_path / "secret.png", _image("red"))
    (tmp_path / "in" / "a").mkdir(parents=True)
    (tmp_path / "in" / "link.png").symlink_to(tmp_path / "secret.png")
    ((_, state, reason),) = _found(_table(tmp_path / "in" / f"t.{kind}", [{"file_name": name}]))
    assert state == "skipped" and reason is not None and ("leaves the folder" in reason or "leads out" in reason)


@pytest.mark.parametrize("caption", [None, 3, [], [1, " "], "half \ud83d", "a\0b"])
def test_captions_that_are_none(tmp_path: Path, caption: object) -> None:
    _write(tmp_path / "1.png", _image("red"))
    table = _table(tmp_path / "t.jsonl", [{"file_name": "1.png", "text": caption}])
    assert _found(table) == [("t.jsonl line 1", "red", None)]


def test_two_tables_in_a_folder(tmp_path: Path) -> None:
    _table(tmp_path / "metadata.csv", [{"file_name": "1.png"}])
    _table(tmp_path / "metadata.jsonl", [{"file_name": "1.png"}])
    with pytest.raises(UserError, match=r"holds metadata\.csv and metadata\.jsonl; keep one"):
        _found(tmp_path)


# HPDv3


def _entry(**changes: object) -> dict[str, object]:
    usual = {"prompt": "a  cat", "path1": "images/1.png", "path2": "images/2.png", "model1": "real_images"}
    return usual | {"model2": "flux", "confidence": 0.9, "choice_dist": [9, 1]} | changes


def test_hpdv3(tmp_path: Path) -> None:
    _write(tmp_path / "images" / "1.png", _image("red"))
    _write(tmp_path / "images" / "2.png", _image("lime"))
    entries = [
        _entry(),
        _entry(model1="sd3", model2="kolors"),
        _entry(model1="sd3", model2="real_images", prompt=None),
        _entry(path1="../1.png"),
        _entry(model2="real_images", prompt='a [dog], {said} \\ "it"'),
    ]
    source = _write(tmp_path / "hpd.json", json.dumps(entries, indent=1))
    assert _found(source) == [
        ("hpd.json entry 1 path1", "red", "a cat"),
        ("hpd.json entry 3 path2", "lime", None),
        ("hpd.json entry 4 path1", "skipped", "../1.png: leaves the folder"),
        ("hpd.json entry 5 path1", "red", 'a [dog], {said} \\ "it"'),
        ("hpd.json entry 5 path2", "lime", 'a [dog], {said} \\ "it"'),
    ]


# Parquet


def _parquet(path: Path, columns: Mapping[str, object], group: int = 2) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(dict(columns)), path, row_group_size=group)
    return path


@pytest.mark.parametrize("as_struct", [True, False])
@pytest.mark.parametrize("text", ["caption", "text", "prompt", None])
def test_parquet(tmp_path: Path, text: str | None, as_struct: bool) -> None:
    images = [_image(colour) for colour in COLOURS[:3]]
    cells = [{"bytes": image, "path": f"{i}.png"} for i, image in enumerate(images)] if as_struct else images
    columns = {"image": cells, **({text: ["a", None, "c\nd"]} if text else {})}
    path = _parquet(tmp_path / "data" / "p.parquet", columns)
    captions = ["a", None, "c d"] if text else [None] * 3
    expected = list(zip(COLOURS[:3], captions, strict=True))
    assert _found(path) == [(f"p.parquet row {i}", *rest) for i, rest in enumerate(expected, 1)]
    assert _found(tmp_path) == [(f"data/p.parquet row {i}", *rest) for i, rest in enumerate(expected, 1)]


def _pick_a_pic(path: Path, labels: list[object]) -> Path:
    num = len(labels)
    sides = {"jpg_0": [_image("red")] * num, "jpg_1": [_image("lime")] * num}
    return _parquet(path, {**sides, "label_0": labels, "caption": [f"prompt {i}" for i in range(num)]})


def test_pick_a_pic_takes_the_better_image(tmp_path: Path) -> None:
    assert _found(_pick_a_pic(tmp_path / "p.parquet", [1.0, 0.0, 0.5, None, 0.7])) == [
        ("p.parquet row 1", "red", "prompt 0"),
        ("p.parquet row 2", "lime", "prompt 1"),
        ("p.parquet row 3", "skipped", "a tie: neither of its images was liked better"),
        ("p.parquet row 4", "skipped", "has no label"),
        ("p.parquet row 5", "red", "prompt 4"),
    ]


@pytest.mark.parametrize("labels", [["1", "0"], [True, False], [2, 0], [float("nan")]])
def test_pick_a_pic_labels_are_numbers(tmp_path: Path, labels: list[object]) -> None:
    with pytest.raises(UserError, match=r"p\.parquet: row 1: `label_0` is .*; write a number"):
        _found(_pick_a_pic(tmp_path / "p.parquet", labels))


def test_splits(tmp_path: Path) -> None:
    """The test split is no part of what is trained on, unless it is asked for."""
    _pick_a_pic(tmp_path / "data" / "train-00000-of-00001-abc.parquet", [1])
    _pick_a_pic(tmp_path / "data" / "test-00000-of-00001-abc.parquet", [0])
    with pytest.raises(UserError, match=r"has the splits test, train; choose one with --split"):
        _found(tmp_path)
    assert [colour for _, colour, _ in _found(tmp_path, "train")] == ["red"]
    with pytest.raises(UserError, match="has no split validation"):
        _found(tmp_path, "validation")


# Webdataset


def _tar(path: Path, members: Mapping[str, bytes | str], mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        folder = tarfile.TarInfo("deep")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name, content in members.items():
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_webdataset(tmp_path: Path) -> None:
    first = {
        "0.PNG": _image("red"), "0.txt": "a\nb", "1.json": '{"caption": "c"}', "1.webp": _image("lime"),
        "deep/2.jpg": _image("blue"), "deep/2.caption": "d", "3.png": _image("white"), "3.json": "{", "4.txt": "alone",
        "5.jpeg": _image("black"), "5.txt": b"\xff",
    }  # fmt: skip
    _tar(tmp_path / "00001.tar", {"0.png": _image("blue"), "x.png": _image("red"), "0.jpg": _image("lime")})
    _tar(tmp_path / "00000.tar", first)
    assert _found(tmp_path) == [
        ("00000.tar:0", "red", "a b"),
        ("00000.tar:1", "lime", "c"),
        ("00000.tar:deep/2", "blue", "d"),
        ("00000.tar:3", "white", None),
        (
            "00000.tar:4",
            "skipped",
            "holds no image that is read, but txt; a name is KEY.ENDING, and its key ends at the first dot",
        ),
        ("00000.tar:5", "black", None),
        ("00001.tar:0", "blue", None),
        ("00001.tar:x", "red", None),
        ("00001.tar:0 (2)", "lime", None),
    ]
    assert [name for name, *_ in _found(tmp_path / "00000.tar")][:2] == ["00000.tar:0", "00000.tar:1"]


def _pair(key: str, label: str, **changes: str) -> dict[str, bytes | str]:
    sides = {f"{key}.jpg_0.jpg": _image("red"), f"{key}.jpg_1.jpg": _image("lime")}
    return {**sides, f"{key}.label_0.txt": label, f"{key}.original_prompt.txt": f"prompt {key}"}


def test_pick_a_pic_as_webdataset(tmp_path: Path) -> None:
    path = _tar(tmp_path / "p.tar", _pair("a", "1") | _pair("b", "0\n") | _pair("c", "0.5"))
    assert _found(path) == [
        ("p.tar:a", "red", "prompt a"),
        ("p.tar:b", "lime", "prompt b"),
        ("p.tar:c", "skipped", "a tie: neither of its images was liked better"),
    ]
    with pytest.raises(UserError, match=r"q\.tar: a: `label_0` is 'jpg_0'; write a number"):
        _found(_tar(tmp_path / "q.tar", _pair("a", "jpg_0")))


# What is the user's to mend

BROKEN: dict[str, tuple[Callable[[Path], Path], str]] = {
    "nothing": (lambda f: f / "none", "none: no such file or folder"),
    "empty": (lambda f: f, "holds no photographs; photographs are read from a folder of images"),
    "prompts": (lambda f: _write(f / "p.txt", "a cat\n"), r"p\.txt: is not a source of photographs; .*tables \(\.csv"),
    "prompts.jsonl": (lambda f: _write(f / "p.jsonl", '{"prompt": "a"}'), "line 1: names no image file .found: prompt"),
    "pairs": (lambda f: _write(f / "m.jsonl", '{"image_0": "a", "image_1": "b"}'), "found: image_0, image_1"),
    "broken": (lambda f: _write(f / "m.jsonl", '\n{"file_name": '), r"m\.jsonl: line 2: not readable as JSON"),
    "latin": (lambda f: _write(f / "m.jsonl", b'{"text": "\xe9"}'), r"line 1: not readable as JSON: 'utf-8'"),
    "a list": (lambda f: _write(f / "m.jsonl", "[1]"), "line 1: not a JSON object"),
    "no name": (lambda f: _write(f / "m.jsonl", '{"file_name": 3}'), "line 1: `file_name` is 3; write the name"),
    "columns": (lambda f: _write(f / "t.csv", "a;file_name\n1;x.png\n"), "names no image file .found: a;file_name"),
    "commas": (lambda f: _write(f / "t.csv", "file_name,text\nx.png,a, b\n"), "line 2: has 3 fields"),
    "empty.csv": (lambda f: _write(f / "t.csv", ""), r"t\.csv: is empty"),
    "prompts.json": (lambda f: _write(f / "p.json", '[{"prompt": "a"}]'), "names no image file .found: prompt"),
    "no list": (lambda f: _write(f / "p.json", '{"prompt": "a"}'), "is not a JSON list"),
    "cut list": (lambda f: _write(f / "p.json", json.dumps([_entry(model1="a")])[:-9]), "entry 1: is cut short"),
    "drawn alone": (lambda f: _write(f / "p.json", json.dumps([_entry(model1="sd3")])), "holds no photographs"),
    "no parquet": (lambda f: _write(f / "p.parquet", b"PAR1"), r"p\.parquet: is cut short or not a Parquet"),
    "no image": (lambda f: _parquet(f / "p.parquet", {"url": ["a"], "text": ["b"]}), "names no image file .found: url"),
    "paths": (lambda f: _parquet(f / "p.parquet", {"image": ["a.png"]}), "its column image is of string; write"),
    "half a pair": (
        lambda f: _parquet(f / "p.parquet", {"jpg_0": [b"a"], "jpg_1": [b"b"], "caption": ["c"]}),
        "has no column label_0",
    ),
    "compressed": (lambda f: _tar(f / "a.tar.gz", {"0.png": _image("red")}, "w:gz"), "is a compressed tar"),
    "in a folder": (lambda f: _tar(f / "a.tgz", {"0.png": _image("red")}, "w:gz").parent, "is a compressed tar"),
    "secretly": (lambda f: _write(f / "a.tar", gzip.compress(b"a" * 9999)), r"a\.tar: is .*no uncompressed tar"),
    "no tar": (lambda f: _write(f / "a.tar", b"a" * 9999), r"a\.tar: is .*no uncompressed tar"),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_broken_sources(tmp_path: Path, what: str) -> None:
    make, told = BROKEN[what]
    with pytest.raises(UserError, match=told) as error:
        _found(make(tmp_path))
    assert "\n" not in str(error.value)


# Many


def _listing(path: Path, num: int) -> Path:
    with path.open("w", encoding="utf-8") as file:
        if path.suffix == ".csv":
            file.write("file_name,text\n")
        for number in range(num):
            text = f"a caption of some length for the photograph numbered {number}"
            row = {"file_name": "1.png", "text": text}
            file.write((f"1.png,{text}" if path.suffix == ".csv" else json.dumps(row)) + "\n")
    return path


def _peak(source: Path, num: int) -> int:
    tracemalloc.start()
    try:
        assert sum(isinstance(photo, Photo) for photo in list_photos(source)) == num
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_memory_is_flat(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without asking the disk for every file, which takes most of the time, and more when memory is traced."""
    monkeypatch.setattr(row, "inside", lambda folder, name: folder / name)
    few, many = (_peak(_listing(tmp_path / f"{num}.{kind}", num), num) for num in (1_000, 8_000))
    assert many < 1.1 * few + 20_000
    assert many < 1_000_000


def test_listing_is_lazy(tmp_path: Path) -> None:
    """The first photograph is there before the rest is read."""
    _write(tmp_path / "1.png", _image("red"))
    source = _listing(tmp_path / "t.jsonl", 50_000)
    with source.open("a") as file:
        file.write("broken")
    start = time.perf_counter()
    assert next(list_photos(source)) == next(list_photos(source))
    assert time.perf_counter() - start < 1
