"""Images, photographs and archives."""

from __future__ import annotations

import io
import json
import os
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from malformed.case import Arguments, Case, Place, copied


def evaluated_images(change: Callable[[Path], object]) -> Callable[[Path], Arguments]:
    def prepare(folder: Path) -> Arguments:
        change(copied("images", folder / "i") / "00000/samples")
        return ["evaluate", "--images", "base=i", "--autoencoder", Place.of("model"), "--out", "out"]

    return prepare


def looped(samples: Path) -> None:
    (samples / "0000.png").unlink()
    (samples / "0000.png").symlink_to("0000.png")


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n"


def bomb(samples: Path) -> None:
    Image.new("1", (12000, 12000)).save(samples / "0000.png")


def numbered(samples: Path) -> None:
    (samples / "0000.png").rename(samples / f"{10**30}.png")


def tar_of(size_field: bytes) -> bytes:
    """A tar with one good image and a member whose header says this size."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name in ("0000.jpg_0.png", "0000.txt"):
            content = b"a red star"
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    blocks = bytearray(file.getvalue())
    blocks[124:136] = size_field
    blocks[148:156] = b"        "
    blocks[148:156] = f"{sum(blocks[:512]):06o}\0 ".encode()
    return bytes(blocks)


def base256(number: int) -> bytes:
    """A tar's size field that is binary."""
    sign = b"\xff" * 4 if number < 0 else b"\x80\0\0\0"
    return sign + struct.pack(">q", number)


def imported_tar(number: int) -> Callable[[Path], Arguments]:
    def prepare(folder: Path) -> Arguments:
        (folder / "t.tar").write_bytes(tar_of(base256(number)))
        return ["pairs", "import", "--model", Place.of("model"), "--source", "t.tar", "--out", "out", "--device", "cpu"]

    return prepare


def photographs(change: Callable[[Path], str]) -> Callable[[Path], Arguments]:
    def prepare(folder: Path) -> Arguments:
        source = change(folder)
        return ["pairs", "real", "--model", Place.of("model"), "--photos", source, "--spoil", "noise", "--out", "out"]

    return prepare


def deep_photographs(folder: Path) -> str:
    inner = copied("photos", folder / "ph")
    before = Path.cwd()
    os.chdir(inner)
    for _ in range(900):
        Path("d").mkdir()
        os.chdir("d")
    os.chdir(before)
    return "ph"


def tarred_photographs(folder: Path) -> str:
    (folder / "t.tar").write_bytes(tar_of(base256(-512)))
    return "t.tar"


def listed_photographs(folder: Path) -> str:
    photos = copied("photos", folder / "ph")
    image = next(photos.glob("*.png")).name
    rows = [{"file_name": "\ud83d.png", "text": "a star"}, {"file_name": image, "text": "a red star"}]
    (photos / "it.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return "ph/it.jsonl"


IMAGES = [
    Case("evaluate-images", "symlink loop", evaluated_images(looped), "0000.png"),
    Case("evaluate-images", "EPS named png", evaluated_images(lambda s: (s / "0000.png").write_bytes(EPS)), "0000.png"),
    Case("evaluate-images", "bomb 12000x12000 (144 Mpx)", evaluated_images(bomb), "0000.png"),
    Case("evaluate-images", "seed 10^30", evaluated_images(numbered), "1000000"),
    Case("import", "tar negative size -512", imported_tar(-512), "t.tar"),
    Case("import", "tar size 2^50", imported_tar(2**50), "t.tar"),
    Case("photos", "deep folders 900", photographs(deep_photographs), code=0),
    Case("photos", "neg tar", photographs(tarred_photographs), "t.tar"),
    Case("photos", "jsonl surrogate file", photographs(listed_photographs), code=0),
]
