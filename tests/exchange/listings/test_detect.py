"""What a path's ending and columns tell, and settings that a format has no use for."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest

from contrapose.errors import UserError
from contrapose.exchange.listings import FORMATS, FormatName, Reading, folder_pairs
from contrapose.exchange.listings.detect import detect

FILES = {
    "a.jsonl": ('\ufeff\n{"prompt": "a", "image_0": "0", "image_1": "1"}', "metadata"),
    "b.jsonl": ('{"prompt": "a", "pos_file": "0"}', "ddspo"),
    "c.csv": ("\ufeffuid,prompt,real_image_path,fake_image_path", "real-fake"),
    "d.csv": ("file_path, caption, label", "kto"),
    "e.json": ('[{"path1": "a"}, broken', "hpdv3"),
    "f.PARQUET": ("", "pick-a-pic"),
    "g.tar": ("", "webdataset"),
}


def test_every_format_has_a_name() -> None:
    assert set(get_args(FormatName)) == {"auto", *FORMATS} == {"auto", *(name for _, name in FILES.values())}


@pytest.mark.parametrize("name", FILES)
def test_files(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(FILES[name][0], encoding="utf-8")
    assert detect(tmp_path / name) == FILES[name][1]


def test_folders(tmp_path: Path) -> None:
    for format, file in {"pick-a-pic": "data/train.parquet", "webdataset": "0.tar", "ddspo": "metadata.jsonl"}.items():
        (tmp_path / format / file).parent.mkdir(parents=True)
        (tmp_path / format / file).write_text('{"prompt": "a", "pos_file": "0"}')
        assert detect(tmp_path / format) == format


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("none.csv", None, "no such file or folder"),
        ("a.xlsx", "", "its format is not known by its ending"),
        ("a.csv", "image,text", "has no real_image_path or label (found: image, text), so it lists no pairs"),
        ("a.csv", "", "is empty"),
        ("a.jsonl", '{"prompt": "a"}', "has no image_0 or pos_file (found: prompt)"),
        ("a.jsonl", "[1]", "its first line is not one JSON object"),
        ("a.jsonl", "", "has no image_0 or pos_file (found: nothing)"),
        ("a.json", "[]", "has no path1 (found: nothing)"),
        ("a.json", "{}", "is not a JSON list"),
    ],
)
def test_what_tells_nothing(tmp_path: Path, name: str, text: str | None, told: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError) as error:
        detect(tmp_path / name)
    assert f"{tmp_path / name}: {told}" in str(error.value)


def test_a_folder_that_holds_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no metadata\.jsonl, \.parquet or \.tar files"):
        detect(tmp_path)


SETTINGS: dict[str, Any] = {"ties": "half", "images": Path("x"), "only_models": ("flux",), "split": "train"}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("format", FORMATS)
def test_settings_without_a_use_are_refused(tmp_path: Path, listed: Any, format: str, name: str) -> None:
    """And those with one go on to the next complaint, that there is no such file."""
    with pytest.raises(UserError) as error:
        listed(tmp_path / "none", format, **{name: SETTINGS[name]})
    refused = f"{name}: pairs from {format} have no use for it; leave the setting out"
    assert (str(error.value) == refused) == (name not in FORMATS[format].takes)


def test_folders_have_no_ties(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="ties: pairs from two folders have no use for it"):
        folder_pairs(tmp_path, tmp_path, Reading(ties="half"))
