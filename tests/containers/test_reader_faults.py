"""Data as people have it, which other readers lost or took for something else: captions, links, splits and prompts."""

from __future__ import annotations

import io
import json
from datetime import datetime, timezone
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from contrapose.containers.images import read_image
from contrapose.containers.left_out import LeftOut
from contrapose.containers.readers import rows_of
from contrapose.errors import UserError
from contrapose.exchange.listings import Reading, folder_pairs, source_pairs
from contrapose.photographs.photos import Photo, list_photos
from contrapose.store.prompts import read_prompts


def _picture(colour: str = "red") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(file, "PNG")
    return file.getvalue()


def _write(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def _captions(source: Path) -> list[str | None]:
    photos = list(list_photos(source))
    assert not [photo for photo in photos if isinstance(photo, LeftOut)]
    return [photo.caption for photo in photos if isinstance(photo, Photo)]


# Captions

COLUMNS: dict[str, pa.Array] = {
    "a list": pa.array([["a picture", "a drawing"]]),
    "a list that begins with nothing": pa.array([["", "a picture"]]),
    "bytes": pa.array([b"a picture"]),
    "a category": pa.array(["a picture"]).dictionary_encode(),
}


@pytest.mark.parametrize("column", COLUMNS.values(), ids=COLUMNS)
def test_a_caption_of_any_type_in_parquet(tmp_path: Path, column: pa.Array) -> None:
    pq.write_table(pa.table({"image": [_picture()], "caption": column}), tmp_path / "a.parquet")
    assert _captions(tmp_path / "a.parquet") == ["a picture"]


@pytest.mark.parametrize("name", ["caption", "captions", "text"])
def test_a_list_of_captions_in_json(tmp_path: Path, name: str) -> None:
    _write(tmp_path / "0.png", _picture())
    row = {"file_name": "0.png", name: [None, "a picture", "a drawing"]}
    assert _captions(_write(tmp_path / "metadata.jsonl", json.dumps(row))) == ["a picture"]
    pair = {"image_0": "0.png", "image_1": "0.png", "prompt": ["a picture", "b"], "prefer_0": 1, "prefer_1": 0}
    [listed] = source_pairs(_write(tmp_path / "p.json", json.dumps([pair])), Reading()).pairs
    assert listed.prompt == "a picture"


def test_the_fields_of_a_row_without_a_caption_are_told(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [_picture()], "en_caption": ["a picture"]}), tmp_path / "a.parquet")
    [photo] = list_photos(tmp_path / "a.parquet")
    assert isinstance(photo, Photo) and photo.caption is None and photo.fields == "en_caption, image"


BESIDE: dict[str, tuple[str, str]] = {
    "kohya's": ("a.caption", "a picture"),
    "the whole name": ("a.png.txt", "a picture"),
    "the whole name of kohya's": ("a.png.caption", "a picture"),
    "in capitals": ("a.TXT", "a picture"),
    "JSON": ("a.json", '\ufeff{"caption": null, "text": "a picture"}'),
}


@pytest.mark.parametrize(("name", "text"), BESIDE.values(), ids=BESIDE)
def test_a_caption_beside_the_image(tmp_path: Path, name: str, text: str) -> None:
    _write(tmp_path / "good" / "a.png", _picture())
    _write(tmp_path / "bad" / "a.png", _picture("blue"))
    _write(tmp_path / "good" / name, text)
    assert _captions(tmp_path / "good") == ["a picture"]
    [pair] = folder_pairs(tmp_path / "good", tmp_path / "bad").pairs
    assert pair.prompt == "a picture"


def test_the_first_text_beside_the_image_counts(tmp_path: Path) -> None:
    _write(tmp_path / "a.png", _picture())
    for name, text in {"a.txt": " ", "a.caption": "a picture", "a.json": '{"caption": "a drawing"}'}.items():
        _write(tmp_path / name, text)
    assert _captions(tmp_path) == ["a picture"]


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_metadata_of_an_image_folder(tmp_path: Path, ending: str) -> None:
    """As Hugging Face's image folders have it, in any of three containers."""
    _write(tmp_path / "train" / "0.png", _picture())
    path = tmp_path / "train" / f"metadata.{ending}"
    if ending == "parquet":
        pq.write_table(pa.table({"file_name": ["0.png"], "text": ["a picture"]}), path)
    else:
        _write(
            path,
            "file_name,text\n0.png,a picture" if ending == "csv" else '{"file_name": "0.png", "text": "a picture"}',
        )
    assert _captions(tmp_path) == ["a picture"]


# Links


def _hub_cache(folder: Path) -> Path:
    """As the hub's cache keeps a data set: links into `blobs`."""
    snapshot = folder / "datasets--x" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    for number, (name, data) in enumerate({"images/0.png": _picture(), "images/0.txt": b"a picture"}.items()):
        _write(folder / "datasets--x" / "blobs" / str(number), data)
        (snapshot / name).parent.mkdir(exist_ok=True)
        (snapshot / name).symlink_to(f"../../../blobs/{number}")
    pq.write_table(pa.table({"image": [_picture()], "text": ["a picture"]}), folder / "datasets--x" / "blobs" / "p")
    (snapshot / "train.parquet").symlink_to("../../blobs/p")
    return snapshot


def test_the_hubs_cache_is_read_through_its_links(tmp_path: Path) -> None:
    snapshot = _hub_cache(tmp_path)
    photos = [photo for photo in list_photos(snapshot) if isinstance(photo, Photo)]
    assert [photo.name for photo in photos] == ["images/0.png", "train.parquet row 1"]
    assert [photo.caption for photo in photos] == ["a picture"] * 2
    assert all(read_image(photo.image).size == (8, 8) for photo in photos)
    [pair] = folder_pairs(snapshot / "images", snapshot / "images").pairs
    assert pair.prompt == "a picture"


def test_links_of_the_hubs_cache_lead_to_its_blobs_alone(tmp_path: Path) -> None:
    snapshot = _hub_cache(tmp_path)
    _write(tmp_path / "secret.png", _picture())
    (snapshot / "images" / "1.png").symlink_to(tmp_path / "secret.png")
    [skipped] = [photo for photo in list_photos(snapshot) if isinstance(photo, LeftOut)]
    assert skipped.reason == "images/1.png: is a link that leads out of the folder"


# Prompts

PARTI = 'Prompt\tCategory\tNote\na red circle\tAbstract\t\nThe words "Fly an airplane"\tArts\tx\n"a ""b"""\tArts\t\n'


def _texts(path: Path) -> list[str]:
    return [prompt.text for prompt in read_prompts(path)]


def test_partiprompts(tmp_path: Path) -> None:
    first, second, third = read_prompts(_write(tmp_path / "PartiPrompts.tsv", PARTI))
    assert (first.text, first.fields, first.place) == ("a red circle", {"Category": "Abstract", "Note": ""}, "line 2")
    assert (second.text, third.text) == ('The words "Fly an airplane"', 'a "b"')


def test_prompts_of_other_containers(tmp_path: Path) -> None:
    texts = ["a red circle", "a blue square"]
    assert _texts(_write(tmp_path / "hps.json", "\ufeff" + json.dumps(texts))) == texts
    assert _texts(_write(tmp_path / "a.json", json.dumps([{"prompt": text, "tag": "x"} for text in texts]))) == texts
    assert _texts(_write(tmp_path / "drawbench.csv", "Prompts id,Prompt\n1,a red circle\n2,a blue square")) == texts
    assert (
        _texts(_write(tmp_path / "a.jsonl", "".join(json.dumps({"caption": text}) + "\n" for text in texts))) == texts
    )


def test_diffusiondb(tmp_path: Path) -> None:
    """Its times become texts, which every file can hold."""
    columns = {"prompt": ["a cat"], "seed": [3], "timestamp": [datetime(2022, 8, 1, tzinfo=timezone.utc)]}
    pq.write_table(pa.table(columns | {"image": [_picture()]}), tmp_path / "metadata.parquet")
    [prompt] = read_prompts(tmp_path / "metadata.parquet")
    assert prompt.text == "a cat" and prompt.fields["seed"] == 3
    assert json.loads(json.dumps(dict(prompt.fields)))["timestamp"].startswith("2022-08-01")


def test_a_column_that_is_missing_is_told_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.tsv: line 2: has no `prompt` field \(fields found: Text, Note\)"):
        read_prompts(_write(tmp_path / "a.tsv", "Text\tNote\na\tb\n"))
    with pytest.raises(UserError, match=r"a\.json: entry 2: is not an object"):
        read_prompts(_write(tmp_path / "a.json", '["a", 5]'))


# Rows in general


def test_lists_of_many_rows_are_streamed(tmp_path: Path) -> None:
    """The first row of a list is there before its end is read, which is broken."""
    entries = ",".join(json.dumps({"prompt": f"prompt {number}"}) for number in range(100_000))
    for name, text in {"a.json": f"[{entries}, broken", "a.jsonl": entries.replace(",", "\n") + "\nbroken"}.items():
        path = _write(tmp_path / name, text)
        assert next(rows_of(path)).fields == {"prompt": "prompt 0"}
        with pytest.raises(UserError, match=r"(entry|line) 100001"):
            sum(1 for _ in rows_of(path))
