"""Files that `pairs real` wrote, cut, emptied, garbled or of other types: one line that names them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_vision
from photo_table import NAME, change, contents

from contrapose.backbones.base import Backbone
from contrapose.backbones.families.table import load_backbone
from contrapose.errors import UserError
from contrapose.photographs.filters import CaptionLength
from contrapose.photographs.real import Real, make_pairs
from contrapose.photographs.spoil.degrade import Degrade
from contrapose.store.fitting import Fitting


@pytest.fixture(scope="module")
def backbone(tiny_model: Path) -> Backbone:
    return load_backbone(tiny_model)


@pytest.fixture(scope="module")
def settings(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Real:
    folder = tmp_path_factory.mktemp("photos")
    for number in range(4):
        tiny_vision.noise_image(number).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text("a red circle" if number else "circle", encoding="utf-8")
    fitting = Fitting(resolution=32)
    return Real(str(tiny_model), folder, spoil=Degrade(), filters=(CaptionLength(),), batch_size=2, fitting=fitting)


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
FILES = ["real.yaml", "pairs.yaml", "inputs.yaml", "shard-00000.safetensors", NAME]


@pytest.mark.parametrize("spoil", SPOILERS.values(), ids=SPOILERS)
@pytest.mark.parametrize("name", FILES)
def test_every_file_that_is_broken_is_named(
    settings: Real, backbone: Backbone, out: Path, name: str, spoil: Callable[[bytes], bytes]
) -> None:
    (out / name).write_bytes(spoil((out / name).read_bytes()))
    if name == NAME and not (out / name).stat().st_size:
        list(make_pairs(settings, backbone, out))  # an empty file is a table that was just begun
        return
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


def _place(*parts: object) -> str:
    return f"image = '{json.dumps(parts)}'"


CHANGES = {
    "a seed that is none": "seed = NULL",
    "a seed below 0": "seed = -1",
    "a seed that is a text": "seed = 'x'",
    "an id that is a path": "id = '../../0123456789'",
    "an id that is none": "id = NULL",
    "a name that is no text": "name = x'00ff'",
    "a stage below 0": "stage = -1",
    "a kind without a reason": "kind = 'x'",
    "a reason without a kind": "reason = 'x'",
    "a size that is a text": "width = 'ab'",
    "a size below 1": "height = 0",
    "a size of fractions": "width = 40.5",
    "a bucket that there is not": "bucket = 99",
    "a bucket that is none": "bucket = NULL",
    "a fingerprint that is too short": "fingerprint = '5'",
    "a fingerprint that is no number": "fingerprint = 'xxxxxxxxxxxxxxxx'",
    "a caption that is no text": "caption = x'00ff'",
    "half a character": "caption = CAST(x'eda0bd' AS TEXT)",
    "a flip that is neither": "flip = 2",
    "a position outside": "crop_left = 7",
    "a position that is none": "crop_top = NULL",
    "scores that are a list": "scores = '[1]'",
    "scores that are no JSON": "scores = 'x'",
    "a score that is a text": """scores = '{"winner x": "1"}'""",
    "a reason that is a list": "why = '[1]'",
    "an image of no kind": _place("zip", "0.png"),
    "an image that is a text": "image = '\"0.png\"'",
    "an image elsewhere": _place("file", "/etc/hosts"),
    "an image that leads out": _place("file", "../0.png"),
    "a place below 0": _place("tar", "a.tar", "0.png", -5, 5),
    "a place that is a text": _place("tar", "a.tar", "0.png", "5", 5),
    "a place that lacks a part": _place("tar", "a.tar", "0.png"),
}


@pytest.mark.parametrize("changed", CHANGES.values(), ids=CHANGES)
def test_a_row_of_other_types_is_named(settings: Real, backbone: Backbone, out: Path, changed: str) -> None:
    change(out, f"UPDATE photographs SET {changed} WHERE number = 2")
    message = _refused(settings, backbone, out)
    assert f"{NAME}: is broken (" in message or changed == "bucket = 99"
    assert "delete the folder" in message


@pytest.mark.parametrize("numbers", [(1,), (2, 3)])
def test_a_row_that_is_gone_is_named(settings: Real, backbone: Backbone, out: Path, numbers: tuple[int, ...]) -> None:
    """But for the last ones: of those the table does not know yet, and they are looked at once more."""
    change(out, f"DELETE FROM photographs WHERE number IN ({', '.join(map(str, numbers))})")
    if max(numbers) < 3:
        assert f"{NAME}: is broken (UNIQUE constraint failed" in _refused(settings, backbone, out)
    else:
        list(make_pairs(settings, backbone, out))


def test_a_row_too_many_is_named(settings: Real, backbone: Backbone, out: Path) -> None:
    change(out, "INSERT INTO photographs (number, name, stage, kind, reason) VALUES (9, 'x', 0, 'unusable', 'x')")
    assert f"{NAME}: holds 5 of 4 photographs after photos; delete the folder" in _refused(settings, backbone, out)


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_rows_that_are_behind_are_carried_on_to_the_same_bytes(
    settings: Real, backbone: Backbone, whole: Path, out: Path, stage: int
) -> None:
    """As they are after a kill at the end of a stage, or within it."""
    if stage == 0:
        change(out, "DELETE FROM photographs WHERE number > 1")
    behind = "stage = ?, kind = NULL, reason = NULL, why = '{}'"
    change(out, f"UPDATE photographs SET {behind} WHERE stage > ? AND number <> 1", stage, stage)
    for shard in out.glob("shard-*"):
        shard.unlink()
    list(make_pairs(settings, backbone, out))
    assert contents(out) == contents(whole)
