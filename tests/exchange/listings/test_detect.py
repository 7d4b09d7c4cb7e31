"""What a path's ending and columns tell, and settings that a format has no use for."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contrapose.errors import UserError
from contrapose.exchange.listings import FORMATS, FormatName, Reading, detect, folder_pairs

FILES = {
    "a.jsonl": ('\ufeff\n{"prompt": "a", "image_0": "0", "image_1": "1"}', "metadata"),
    "b.jsonl": ('{"prompt": "a", "pos_file": "0"}', "ddspo"),
    "c.csv": ("\ufeffuid,prompt,real_image_path,fake_image_path\n1,2,3,4", "real-fake"),
    "d.csv": ("file_path, caption, label\n1,2,3", "kto"),
    "e.json": ('[{"path1": "a"}, broken', "hpdv3"),
    "f.json": ('[{"human_preference": [1, 0]}]', "hpdv2"),
    "g.jsonl": ('{"prompt": "a", "chosen": "0", "rejected": "1"}', "chosen"),
    "h.tsv": ("image_0\timage_1\n0\t1", "metadata"),
    "i.csv": ("jpg_0,jpg_1,label_0,caption\n0,1,1,a", "pick-a-pic"),
    "j.jsonl": ('{"jpg_0": "a"}', "webdataset"),
}


def test_every_format_has_a_name() -> None:
    assert set(get_args(FormatName)) == {"auto", *FORMATS} == {"auto", *(name for _, name in FILES.values())}


@pytest.mark.parametrize("name", FILES)
def test_files(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(FILES[name][0], encoding="utf-8")
    assert detect(tmp_path / name) == FILES[name][1]


def test_folders(tmp_path: Path) -> None:
    (tmp_path / "ddspo").mkdir()
    (tmp_path / "ddspo" / "metadata.jsonl").write_text('{"prompt": "a", "pos_file": "0"}')
    assert detect(tmp_path / "ddspo") == "ddspo"
    (tmp_path / "table" / "data").mkdir(parents=True)
    row = {"jpg_0": b"a", "jpg_1": b"b", "label_0": 1, "caption": "a"}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "table" / "data" / "train.parquet")
    assert detect(tmp_path / "table") == "pick-a-pic"
    (tmp_path / "tars").mkdir()
    with tarfile.open(tmp_path / "tars" / "0.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("0.jpg_0.jpg"))
    assert detect(tmp_path / "tars") == "webdataset"


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("none.csv", None, "no such file or folder"),
        ("a.xlsx", "", "its format is not known by its ending"),
        (
            "a.csv",
            "image,text\n1,2",
            "has the fields of no format (found: image, text), so it lists no pairs; formats have",
        ),
        ("a.csv", "", "is empty"),
        ("a.jsonl", '{"prompt": "a"}', "has the fields of no format (found: prompt)"),
        ("a.jsonl", "[1]", "line 1: not a JSON object"),
        ("a.jsonl", "", "holds no rows"),
        ("a.json", "[]", "holds no rows"),
        ("a.csv", "image,text", "holds no rows"),
        ("a.json", "{}", "is not a JSON list"),
    ],
)
def test_what_tells_nothing(tmp_path: Path, name: str, text: str | None, told: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError) as error:
        detect(tmp_path / name)
    assert f"{tmp_path / name}: {told}" in str(error.value)


def test_a_data_set_of_the_hub_is_told_how_it_is_named() -> None:
    with pytest.raises(UserError, match=r"no such file or folder; .* is named hf://datasets/someone/pairs$"):
        detect(Path("someone/pairs"))


def test_a_folder_that_holds_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no metadata\.jsonl, \.parquet or \.tar files"):
        detect(tmp_path)


SETTINGS: dict[str, Any] = {"ties": "half", "image_folder": Path("x"), "only_models": ("flux",), "split": "train"}


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
