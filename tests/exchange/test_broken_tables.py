"""Files that `pairs real` wrote, cut, emptied, garbled or of other types: one line that names them, and the same bytes
as ever where a kill cut a table short."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_vision

from contrapose.backbones.base import Backbone
from contrapose.backbones.families.table import load_backbone
from contrapose.errors import UserError
from contrapose.photographs.candidates import Table
from contrapose.photographs.filters import CaptionLength
from contrapose.photographs.real import Real, make_pairs
from contrapose.photographs.spoil.degrade import Degrade

FIRST, SECOND, LAST = "00-photos.jsonl", "01-caption-length.jsonl", "02-losers.jsonl"


@pytest.fixture(scope="module")
def backbone(tiny_model: Path) -> Backbone:
    return load_backbone(tiny_model)


@pytest.fixture(scope="module")
def settings(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Real:
    folder = tmp_path_factory.mktemp("photos")
    for number in range(4):
        tiny_vision.noise_image(number).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text("a red circle" if number else "circle", encoding="utf-8")
    return Real(str(tiny_model), folder, spoil=Degrade(), filters=(CaptionLength(),), resolution=32, batch_size=2)


@pytest.fixture(scope="module")
def whole(settings: Real, backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "out"
    list(make_pairs(settings, backbone, out))
    return out


@pytest.fixture
def out(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "out"))


def _refused(settings: Real, backbone: Backbone, out: Path) -> str:
    with pytest.raises(UserError) as error:
        list(make_pairs(settings, backbone, out))
    assert "\n" not in str(error.value)
    return str(error.value)


def _contents(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def _garbled(data: bytes) -> bytes:
    return data[:5] + b"\xff\0\xfe" + data[8:]


SPOILERS: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "garbled": _garbled,
    "binary": lambda data: b"\xff\xfe\0\1" * 50,
    "deep": lambda data: b"[" * 100_000,
    "a list": lambda data: b"[1, 2]\n",
    "a number": lambda data: b"5\n",
}
FILES = ["real.yaml", "pairs.yaml", "inputs.yaml", "candidates/model.yaml", "shard-00000.safetensors"]
FILES += [f"candidates/{name}" for name in (FIRST, SECOND, LAST)]


@pytest.mark.parametrize("spoil", SPOILERS.values(), ids=SPOILERS)
@pytest.mark.parametrize("name", FILES)
def test_every_file_that_is_broken_is_named(
    settings: Real, backbone: Backbone, out: Path, name: str, spoil: Callable[[bytes], bytes]
) -> None:
    (out / name).write_bytes(spoil((out / name).read_bytes()))
    message = _refused(settings, backbone, out)
    assert Path(name).name in message or (name.endswith(".yaml") and str(out) in message)
    assert "delete" in message or "choose another" in message


@pytest.mark.parametrize("side", ["winner", "loser"])
@pytest.mark.parametrize("spoil", SPOILERS.values(), ids=SPOILERS)
def test_an_image_that_is_broken_is_named(
    settings: Real, backbone: Backbone, out: Path, side: str, spoil: Callable[[bytes], bytes]
) -> None:
    (out / "shard-00000.safetensors").unlink()
    image = sorted((out / "images").glob(f"*.{side}.png"))[1]
    image.write_bytes(spoil(image.read_bytes()))
    assert f"{image.name}: gone or broken; delete {out} and run" in _refused(settings, backbone, out)


def test_an_image_of_another_size_is_named(settings: Real, backbone: Backbone, out: Path) -> None:
    (out / "shard-00000.safetensors").unlink()
    image = sorted((out / "images").glob("*.loser.png"))[1]
    tiny_vision.noise_image(5).resize((30, 32)).save(image)
    assert f"{image.name}: gone or broken" in _refused(settings, backbone, out)


def _row(**changes: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda row: row.update(changes)


ROWS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a field gone": lambda row: row.pop("seed"),
    "a field more": _row(x=1),
    "an id that is a path": _row(id="../../0123456789"),
    "an id that is a number": _row(id=5),
    "a name that is a number": _row(name=5),
    "a size that is a text": _row(size="ab"),
    "a size of texts": _row(size=["40", "40"]),
    "a size of one": _row(size=[40]),
    "a size below 1": _row(size=[0, 40]),
    "a size of fractions": _row(size=[40.5, 40]),
    "a bucket of yes and no": _row(bucket=[True, True]),
    "a fingerprint that is a text": _row(fingerprint="5"),
    "a fingerprint below 0": _row(fingerprint=-1),
    "a seed that is none": _row(seed=None),
    "a seed of 2**63": _row(seed=2**63),
    "a caption that is a number": _row(caption=5),
    "half a character": _row(caption="\ud83d"),
    "a flip that is a number": _row(flip=1),
    "a position outside": _row(position=[0.5, 7]),
    "a position that is not a number": _row(position=[0.5, float("nan")]),
    "a position of three": _row(position=[0.5, 0.5, 0.5]),
    "scores that are a list": _row(scores=[1]),
    "a score that is a text": _row(scores={"winner x": "1"}),
    "a reason that is a list": _row(why=[1]),
    "an image of no kind": _row(image=["zip", "0.png"]),
    "an image that is a text": _row(image="0.png"),
    "an image elsewhere": _row(image=["file", "/etc/hosts"]),
    "an image that leads out": _row(image=["file", "../0.png"]),
    "a place below 0": _row(image=["tar", "a.tar", "0.png", -5, 5]),
    "a place that is a text": _row(image=["tar", "a.tar", "0.png", "5", 5]),
    "a place that lacks a part": _row(image=["tar", "a.tar", "0.png"]),
    "a row that is left out and more": _row(reason="x"),
}


@pytest.mark.parametrize("change", ROWS.values(), ids=ROWS)
def test_a_row_of_other_types_is_named(whole: Path, tmp_path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    lines = (whole / "candidates" / FIRST).read_text().splitlines()
    row = json.loads(lines[1])
    change(row)
    path = tmp_path / FIRST
    path.write_text("\n".join([lines[0], json.dumps(row), *lines[2:]]))
    with pytest.raises(UserError, match=r"00-photos\.jsonl line 2 is broken; delete the folder"):
        list(Table(path))


@pytest.mark.parametrize("change", [{"name": 5}, {"kind": None}, {"reason": [1]}, {"x": "y"}], ids=str)
def test_a_row_that_is_left_out_of_other_types_is_named(whole: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    lines = (whole / "candidates" / SECOND).read_text().splitlines()
    row = next(json.loads(line) for line in lines if '"reason"' in line)
    path = tmp_path / SECOND
    path.write_text(json.dumps(row | change))
    with pytest.raises(UserError, match=r"caption-length\.jsonl line 1 is broken"):
        list(Table(path))


@pytest.mark.parametrize("name", [FIRST, SECOND, LAST])
def test_a_table_that_lost_whole_rows_is_named(settings: Real, backbone: Backbone, out: Path, name: str) -> None:
    path = out / "candidates" / name
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]))
    message = _refused(settings, backbone, out)
    assert f"{name}: holds {len(lines) - 1} rows for {len(lines)} photographs; delete the folder" in message


@pytest.mark.parametrize("name", [FIRST, SECOND, LAST])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.7])
def test_a_table_that_a_kill_cut_short_is_carried_on_to_the_same_bytes(
    settings: Real, backbone: Backbone, whole: Path, out: Path, name: str, share: float
) -> None:
    path = out / "candidates" / name
    data = path.read_bytes()
    path.with_name(f".{name}.partial").write_bytes(data[: int(share * len(data))])
    for later in sorted((out / "candidates").glob("*.jsonl")):
        if later.name >= name:
            later.unlink()
    for shard in out.glob("shard-*"):
        shard.unlink()
    list(make_pairs(settings, backbone, out))
    assert _contents(out) == _contents(whole)
