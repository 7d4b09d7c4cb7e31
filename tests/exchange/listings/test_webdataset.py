"""Webdataset tars, written here as Python's tarfile writes them."""

from __future__ import annotations

import io
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from contrapose.errors import UserError

Files = dict[str, bytes]


@pytest.fixture
def sample(picture: Callable[..., bytes]) -> Callable[..., Files]:
    def make(number: int, label: str = "1", **changes: bytes | None) -> Files:
        fields: dict[str, bytes | None] = {
            "jpg_0.jpg": picture(2 * number, kind="JPEG"), "jpg_1.jpg": picture(2 * number + 1, kind="JPEG"),
            "label_0.txt": label.encode(), "label_1.txt": b"0", "original_prompt.txt": f"a dog {number}".encode(),
        }  # fmt: skip
        fields |= {name.replace("__", "."): value for name, value in changes.items()}
        return {f"{number:04d}.{name}": value for name, value in fields.items() if value is not None}

    return make


def _write(path: Path, *samples: Files, mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, data in ((name, data) for files in samples for name, data in files.items()):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def test_labels(tmp_path: Path, sample: Callable[..., Files], picture: Any, listed: Any, reasons: Any) -> None:
    labels = ["1", "0", "1.0", "0.0\n", "0.5", "0.25"]
    listing = listed(_write(tmp_path / "00.tar", *(sample(n, label) for n, label in enumerate(labels))))
    assert listing.format == "webdataset"
    assert [pair.name for pair in listing.pairs] == [f"00.tar:{n:04d}" for n in (0, 1, 2, 3, 5)]
    assert [pair.winner.member.partition(".")[2] for pair in listing.pairs] == [
        f"jpg_{side}.jpg" for side in (0, 1, 0, 1, 1)
    ]
    assert [pair.preference for pair in listing.pairs] == [1.0, 1.0, 1.0, 1.0, 0.75]
    assert listing.pairs[1].winner.read() == picture(3, kind="JPEG")
    assert listing.pairs[1].loser.read() == picture(2, kind="JPEG")
    assert reasons(listing) == {"00.tar:0004": "a tie; it is kept with --ties half"}


@pytest.mark.parametrize("label", ['"1"', "True", "win", "", "2", "-1", "nan", "b'1'"])
def test_labels_that_are_no_numbers(tmp_path: Path, sample: Callable[..., Files], listed: Any, label: str) -> None:
    with pytest.raises(UserError, match=r"00\.tar: 0001: `label_0` is .*; write a number: 1 or 0"):
        listed(_write(tmp_path / "00.tar", sample(0), sample(1, label)))


def test_a_folder_of_tars(tmp_path: Path, sample: Callable[..., Files], listed: Any) -> None:
    for name in ("01", "00"):
        _write(tmp_path / f"{name}.tar", sample(0))
    assert [pair.name for pair in listed(tmp_path).pairs] == ["00.tar:0000", "01.tar:0000"]


def test_ties_may_be_kept(tmp_path: Path, sample: Callable[..., Files], listed: Any) -> None:
    (pair,) = listed(_write(tmp_path / "00.tar", sample(0, "0.5")), ties="half").pairs
    assert pair.preference == 0.5


def test_samples_that_cannot_be_used(tmp_path: Path, sample: Callable[..., Files], listed: Any, reasons: Any) -> None:
    spoiled: list[dict[str, bytes | None]] = [
        {"jpg_1__jpg": None}, {"original_prompt__txt": None}, {"label_0__txt": None}, {"original_prompt__txt": b" "},
        {"original_prompt__txt": b"caf\xe9"}, {"original_prompt__txt": b"x" * (1 << 17)},
    ]  # fmt: skip
    samples = [sample(n, **changes) for n, changes in enumerate(spoiled)]
    listing = listed(_write(tmp_path / "00.tar", *samples, sample(9)))
    assert len(listing.pairs) == 1
    assert list(reasons(listing).values()) == [
        "has no jpg_1", "has no original_prompt", "has no label_0", "has no caption",
        "0004.original_prompt.txt: is not readable as UTF-8", "0005.original_prompt.txt: is too long for a text",
    ]  # fmt: skip


def test_names_that_lead_out_are_only_names(tmp_path: Path, sample: Callable[..., Files], listed: Any) -> None:
    """Nothing is extracted: a member of any name stays in its tar, and a link is none."""
    path = _write(tmp_path / "00.tar", {f"../../{name}": data for name, data in sample(0).items()})
    assert listed(path).pairs[0].name == "00.tar:../../0000"
    with tarfile.open(path, "w") as tar:
        for name in sample(1):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/hosts"
            tar.addfile(member)
    with pytest.raises(UserError, match=r"00\.tar: holds no rows"):
        listed(path)
    assert not listed(path, "webdataset").pairs


def test_keys_end_at_the_first_dot_of_the_file(tmp_path: Path, sample: Callable[..., Files], listed: Any) -> None:
    path = _write(tmp_path / "00.tar", {f"v1.0/{name}": data for name, data in sample(0).items()}, sample(1))
    assert [pair.name for pair in listed(path).pairs] == ["00.tar:v1.0/0000", "00.tar:0001"]


def test_truncated_tars(tmp_path: Path, sample: Callable[..., Files], listed: Any) -> None:
    """Wherever it was cut: only a tar that lost nothing but its last zeros has its pairs."""
    path = _write(tmp_path / "00.tar", *(sample(n) for n in range(3)))
    with tarfile.open(path) as tar:
        end = max(member.offset_data + -(-member.size // 512) * 512 for member in tar)
        middle = tar.getmember("0001.jpg_0.jpg").offset_data
    data = path.read_bytes()
    for cut in (0, 100, 512, 700, middle - 100, middle, middle + 10, end - 512, end - 1):
        path.write_bytes(data[:cut])
        with pytest.raises(UserError, match=r"00\.tar: is cut short"):
            listed(path)
    path.write_bytes(data[:end])
    assert len(listed(path).pairs) == 3


def test_broken_tars(tmp_path: Path, sample: Callable[..., Files], listed: Any) -> None:
    """Python's reader takes a header that it cannot read for the end of the tar."""
    path = _write(tmp_path / "00.tar", *(sample(n) for n in range(3)))
    with tarfile.open(path) as tar:
        header = tar.getmember("0002.jpg_0.jpg").offset
    data = bytearray(path.read_bytes())
    data[header + 10] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(UserError, match=f"is cut short or broken at byte {header}"):
        listed(path)
    with pytest.raises(UserError, match="or no uncompressed tar"):
        listed(_write(tmp_path / "01.tar", sample(0), mode="w:gz"))


def test_images_are_not_loaded(tmp_path: Path, listed: Any) -> None:
    def big(number: int) -> Files:
        fields = {"jpg_0.jpg": bytes(1 << 20), "jpg_1.jpg": bytes(1 << 20), "label_0.txt": b"1"}
        return {f"{number}.{name}": data for name, data in (fields | {"original_prompt.txt": b"a dog"}).items()}

    path = _write(tmp_path / "00.tar", *(big(n) for n in range(20)))
    tracemalloc.start()
    assert len(listed(path).pairs) == 20
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20 < path.stat().st_size / 30
