"""Tars that someone broke, or that another system packed, by both readers: of pairs and of photographs."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from contrapose.containers.left_out import LeftOut
from contrapose.containers.stored import InTar
from contrapose.errors import UserError
from contrapose.exchange.listings import Reading, source_pairs
from contrapose.photographs.photos import Photo, list_photos

Members = list[tuple[str, bytes]]
_SIZE = slice(124, 136)  # of a header: eleven octal digits, or a big-endian number marked by its first byte
_CHECKSUM = slice(148, 156)
MACOS = b"\0\5\x16\7" + bytes(100)


def _picture(colour: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(file, "PNG")
    return file.getvalue()


def _photos(*numbers: int) -> Members:
    return [file for n in numbers for file in ((f"{n}.png", _picture("red")), (f"{n}.txt", b"a picture"))]


def _pairs(*numbers: int) -> Members:
    found: Members = []
    for n in numbers:
        found += [(f"{n}.jpg_0.png", _picture("red")), (f"{n}.jpg_1.png", _picture("blue"))]
        found += [(f"{n}.label_0.txt", b"1"), (f"{n}.original_prompt.txt", b"a picture")]
    return found


def _tar(path: Path, members: Members, format: int = tarfile.USTAR_FORMAT) -> Path:
    with tarfile.open(path, "w", format=format) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def _resized(path: Path, at: int, size: int) -> Path:
    """The same tar, with another size in the header at this byte, whose checksum is right."""
    data = bytearray(path.read_bytes())
    header = bytearray(data[at : at + tarfile.BLOCKSIZE])
    header[_SIZE] = (b"\x80" if size >= 0 else b"\xff") + size.to_bytes(11, "big", signed=True)
    header[_CHECKSUM] = b" " * 8
    header[_CHECKSUM] = b"%06o\0 " % sum(header)
    data[at : at + tarfile.BLOCKSIZE] = header
    path.write_bytes(data)
    return path


def _place(path: Path, member: str) -> int:
    with tarfile.open(path) as tar:
        return tar.getmember(member).offset


READERS: dict[str, tuple[Callable[..., Members], str, Callable[[Path], list[object]]]] = {
    "photographs": (_photos, "1.png", lambda path: list(list_photos(path))),
    "pairs": (_pairs, "1.jpg_0.png", lambda path: list(source_pairs(path, Reading()).pairs)),
}


@pytest.fixture(params=READERS)
def reader(request: pytest.FixtureRequest) -> tuple[Callable[..., Members], str, Callable[[Path], list[object]]]:
    return READERS[request.param]


SIZES = [-1, -512, -1024, -(1 << 20), -(2**80), 1 << 20, 2**40, 2**50, 2**63 - 1, 2**63, 2**64, 2**80]


@pytest.mark.parametrize("size", SIZES)
def test_a_size_that_cannot_be_ends_in_one_line(reader, tmp_path: Path, size: int) -> None:
    members, member, read = reader
    path = _tar(tmp_path / "a.tar", members(0, 1, 2))
    assert len(read(path)) == 3
    with pytest.raises(UserError, match=r"a\.tar: is cut short, or no uncompressed tar \(.*\); fetch") as error:
        read(_resized(path, _place(path, member), size))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("size", ["-512", "-1", str(2**50), str(2**80), "x", "1e3", "nan"])
def test_a_size_in_an_extended_header(reader, tmp_path: Path, size: str) -> None:
    members, member, read = reader
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in members(0, 1, 2):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            info.pax_headers = {"size": size} if name == member else {}
            tar.addfile(info, io.BytesIO(data))
    try:
        assert len(read(path)) <= 3, "Python's reader takes what is no number for 0"
    except UserError as error:
        assert "a.tar: is cut short" in str(error) and "\n" not in str(error)


@pytest.mark.parametrize("size", [-512, 2**50, 2**63])
@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_an_extended_header_of_impossible_size(reader, tmp_path: Path, kind: int, size: int) -> None:
    members, _, read = reader
    path = _tar(tmp_path / "a.tar", [*members(0), ("x" * 300, b"1"), *members(1)], kind)
    with pytest.raises(UserError, match=r"a\.tar: is cut short"):
        read(_resized(path, _place(path, "x" * 300), size))


def test_hundreds_of_extended_headers_in_a_row(reader, tmp_path: Path) -> None:
    members, _, read = reader
    path = _tar(tmp_path / "a.tar", [("x" * 300, b"1"), *members(0)], tarfile.GNU_FORMAT)
    data = path.read_bytes()
    path.write_bytes(data[:1024] * 3000 + data)
    with pytest.raises(UserError, match=r"a\.tar: is cut short"):
        read(path)


def test_what_macos_and_others_hide_is_passed_over(reader, tmp_path: Path) -> None:
    members, _, read = reader
    files: Members = [(".DS_Store", b"x"), ("./.git/0.png", b"x")]
    for name, data in members(0, 1, 2, 3):
        files += [(f"./._{name}", MACOS), (f"./{name}", data), (f"__MACOSX/._{name}", MACOS)]
    assert len(read(_tar(tmp_path / "a.tar", files))) == 4


def test_files_of_one_key_that_stand_apart_are_told_so(tmp_path: Path) -> None:
    def apart(files: Members) -> Members:
        return sorted(files, key=lambda file: file[0].partition(".")[2])

    found = list(list_photos(_tar(tmp_path / "a.tar", apart(_photos(0, 1)))))
    reasons = [photo.reason for photo in found if isinstance(photo, LeftOut)]
    assert len(reasons) == 2 and all("stand elsewhere in the tar" in reason for reason in reasons)
    listing = source_pairs(
        _tar(tmp_path / "b.tar", sorted(_pairs(0, 1), key=lambda f: f[0].partition(".")[2])), Reading()
    )
    assert not listing.pairs and "tar --sort=name" in listing.left_out[-1].reason


def test_a_key_ends_at_the_first_dot_which_is_said(tmp_path: Path) -> None:
    [photo] = list_photos(
        _tar(tmp_path / "a.tar", [("img_1.0.png", _picture("red")), ("img_1.1.png", _picture("red"))])
    )
    assert isinstance(photo, LeftOut) and "its key ends at the first dot" in photo.reason


BOM = b"\xef\xbb\xbf"
CAPTIONS: dict[str, list[tuple[str, bytes]]] = {
    "a byte order mark in a text": [("0.txt", BOM + b"a picture")],
    "a byte order mark in JSON": [("0.json", BOM + b'{"caption": "a picture"}')],
    "an empty text beside JSON": [("0.txt", b""), ("0.json", b'{"caption": "a picture"}')],
    "an empty text beside another": [("0.txt", b" \n"), ("0.caption", b"a picture")],
    "a text that is no UTF-8": [("0.txt", b"caf\xe9"), ("0.json", b'{"caption": "a picture"}')],
    "null before text": [("0.json", b'{"caption": null, "text": "a picture"}')],
    "empty before text": [("0.json", b'{"caption": "", "text": " ", "prompt": "a picture"}')],
    "half a character before text": [("0.json", b'{"caption": "\\ud83d", "text": "a picture"}')],
}


@pytest.mark.parametrize("texts", CAPTIONS.values(), ids=CAPTIONS)
def test_the_first_caption_with_words_in_it_counts(tmp_path: Path, texts: Members) -> None:
    [photo] = list_photos(_tar(tmp_path / "a.tar", [("0.png", _picture("red")), *texts]))
    assert isinstance(photo, Photo) and photo.caption == "a picture"


def test_byte_order_marks_in_pairs(tmp_path: Path) -> None:
    marked = [(name, BOM + data if name.endswith(".txt") else data) for name, data in _pairs(0)]
    [pair] = source_pairs(_tar(tmp_path / "a.tar", marked), Reading()).pairs
    assert (pair.prompt, pair.preference) == ("a picture", 1.0)


def test_no_more_is_read_than_an_image_can_have(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with path.open("wb") as file:
        file.truncate(1 << 31)  # which takes no room on the disk
    with pytest.raises(OSError, match="and 1073741824 are the most"):
        InTar(path, "0.png", 0, 1 << 31).read()


def test_deeply_nested_json_is_no_caption(tmp_path: Path) -> None:
    [photo] = list_photos(_tar(tmp_path / "a.tar", [("0.png", _picture("red")), ("0.json", b"[" * 60_000)]))
    assert isinstance(photo, Photo) and photo.caption is None
