"""GenEval's folder layout, whole and broken."""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from judging import Measure, PerImage, as_prompts
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from contrapose.contents import bytes_digest, file_digest
from contrapose.errors import UserError
from contrapose.evaluate.images import digest_of_images, image_digest, metadata_of, prompt_folders
from contrapose.evaluate.run import evaluate_images
from contrapose.judges.judge import Jury, images_at_once


def write_prompt(directory: Path, number: int, prompt: str, seeds=(0, 1), tag: str | None = "colors") -> Path:
    samples = directory / f"{number:05d}" / "samples"
    samples.mkdir(parents=True)
    line = {"prompt": prompt} if tag is None else {"tag": tag, "prompt": prompt, "include": []}
    (samples.parent / "metadata.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
    for seed in seeds:
        Image.fromarray(np.full((4, 6, 3), 10 * number + seed, np.uint8)).save(samples / f"{seed:04d}.png")
    return samples.parent


@pytest.fixture
def images(tmp_path) -> Path:
    for number in (10, 2):
        write_prompt(tmp_path / "run", number, f"prompt {number}")
    (tmp_path / "run" / "images.yaml").write_text("model: m\n")
    (tmp_path / "run" / "00002" / "grid.png").write_bytes(b"not read")
    (tmp_path / "run" / "00002" / "samples" / "notes.txt").write_text("not read")
    return tmp_path / "run"


def read_all(directory: Path) -> list:
    return [(f.name, seed, np.asarray(image)) for f in prompt_folders(directory) for seed, image in f.images()]


def test_reading_in_order(images):
    got = read_all(images)
    assert [(name, seed) for name, seed, _ in got] == [("00002", 0), ("00002", 1), ("00010", 0), ("00010", 1)]
    assert got[1][2].shape == (4, 6, 3) and got[1][2].dtype == np.uint8 and (got[1][2] == 21).all()
    line = {"tag": "colors", "prompt": "prompt 2", "include": []}
    assert metadata_of(next(prompt_folders(images)).prompt) == line


def test_any_number_of_digits_is_a_seed(images):
    samples = images / "00002" / "samples"
    (samples / "0001.png").rename(samples / "00011.png")
    assert list(next(prompt_folders(images)).samples) == [0, 11]


def test_other_modes_become_rgb(images):
    path = images / "00002" / "samples" / "0000.png"
    Image.fromarray(np.full((3, 3), 7, np.uint8)).save(path)
    assert read_all(images)[0][2].shape == (3, 3, 3)


def break_truncate(run: Path) -> None:
    path = run / "00002" / "samples" / "0001.png"
    path.write_bytes(path.read_bytes()[:50])


def break_duplicate(run: Path) -> None:
    shutil.copy(run / "00002" / "samples" / "0001.png", run / "00002" / "samples" / "00001.png")


def break_outside(run: Path) -> None:
    path = run / "00002" / "samples" / "0001.png"
    path.rename(run.parent / "elsewhere.png")
    path.symlink_to(run.parent / "elsewhere.png")


def break_loop(run: Path) -> None:
    path = run / "00002" / "samples" / "0001.png"
    path.unlink()
    path.symlink_to(path)


def break_bomb(run: Path) -> None:
    """A file of 100 bytes that says it is an image of 144 million pixels."""
    header = struct.pack(">IIBBBBB", 12000, 12000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", b""), (b"IEND", b"")]
    parts = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks]
    (run / "00002" / "samples" / "0001.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def break_eps(run: Path) -> None:
    """What PIL would hand to Ghostscript."""
    text = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n"
    (run / "00002" / "samples" / "0001.png").write_text(text)


def break_seed(run: Path) -> None:
    samples = run / "00002" / "samples"
    (samples / "0001.png").rename(samples / f"{10**30}.png")


def empty_samples(run: Path) -> None:
    for path in (run / "00002" / "samples").glob("*.png"):
        path.unlink()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (break_truncate, r"0001\.png: not a whole PNG"),
        (lambda run: (run / "00002" / "samples" / "0001.png").write_bytes(b""), r"0001\.png: not a whole PNG"),
        (break_duplicate, "seed 1"),
        (break_outside, "outside"),
        (break_loop, r"0001\.png: is a link that leads nowhere"),
        (break_bomb, r"0001\.png: .*12000x12000 is more than PIL's limit"),
        (break_eps, r"0001\.png: .*cannot identify"),
        (break_seed, r"000\.png: says a seed above"),
        (empty_samples, "00002/samples: holds no images"),
        (lambda run: shutil.rmtree(run / "00002" / "samples"), "00002/samples: missing"),
        (lambda run: (run / "00002" / "metadata.jsonl").unlink(), r"00002/metadata\.jsonl: missing"),
        (lambda run: (run / "00002" / "metadata.jsonl").write_text("{"), r"00002/metadata\.jsonl.*JSON"),
        (lambda run: (run / "00002" / "metadata.jsonl").write_text('{"tag": "x"}'), "`prompt`"),
        (lambda run: (run / "00002" / "metadata.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b"}'), "2 lines"),
    ],
)
def test_broken_folders_are_told(images, damage, words):
    damage(images)
    with warnings.catch_warnings(), pytest.raises(UserError, match=words):
        warnings.simplefilter("error")  # which would be a second line
        read_all(images)


@pytest.mark.parametrize("form", ["JPEG", "WEBP"])
def test_the_content_says_the_format(images, form):
    path = images / "00002" / "samples" / "0000.png"
    Image.new("RGB", (8, 8), (200, 0, 0)).save(path, format=form)
    assert read_all(images)[0][2].mean(axis=(0, 1))[0] > 180


def test_a_folder_s_number_may_be_of_any_length(images):
    (images / "00010").rename(images / str(10**30))
    assert [name for name, *_ in read_all(images)][-1] == str(10**30)


def test_no_folders(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        read_all(tmp_path / "none")
    with pytest.raises(UserError, match="holds no folders"):
        read_all(tmp_path)


def test_evaluate_images_makes_a_row_for_each_image_and_measure(images, tmp_path, monkeypatch):
    write_prompt(tmp_path / "other", 0, "untagged", tag=None)
    told: list[tuple[int, int]] = []

    def judge(image, metadata):
        return [Measure("brightness", float(image.mean()), metadata["prompt"]), Measure("one", 1.0)]

    monkeypatch.setattr("contrapose.evaluate.run._AT_ONCE", 3)
    rows = evaluate_images(
        {"a": images, "b": tmp_path / "other"}, PerImage(judge), progress=lambda done, total: told.append((done, total))
    )
    assert told == [(3, 6), (4, 6), (6, 6)] and len(rows) == 12
    assert rows[2][:1] + rows[2][2:] == ("a", "colors", 1, "brightness", 21.0, "prompt 2", None)
    assert rows[-1].tag == "all"


@pytest.mark.parametrize("is_of_jury", [False, True])
def test_a_judge_by_a_server_is_given_as_many_images_as_it_asks_about_at_once(images, is_of_jury):
    told: list[int] = []
    judge = PerImage(lambda image, line: [Measure("m", 0.0)], {"m": True})
    judge.at_once = 40  # more than there are
    many = Jury([judge]) if is_of_jury else judge
    evaluate_images({"a": images}, many, progress=lambda done, total: told.append(done))
    judge.at_once = 3
    assert images_at_once(many, 1) == 3 and images_at_once(many, 16) == 16
    assert told == [4]


def test_the_floor_is_judged_by_other_prompts(images):
    prompts = as_prompts([{"prompt": "x", "tag": "t"}, {"prompt": "y", "tag": "t"}])
    judge = PerImage(lambda image, line: [Measure("m", 0.0, line["prompt"])])
    rows = evaluate_images({"floor": images}, judge, prompts={"floor": prompts})
    assert [row.reason for row in rows] == ["x", "x", "y", "y"] and rows[0].tag == "t"
    with pytest.raises(UserError, match="1 prompts"):
        evaluate_images({"floor": images}, judge, prompts={"floor": prompts[:1]})


def test_a_digest_leaves_out_the_texts_of_whole_files_alone(tmp_path: Path) -> None:
    """Of files that are not images, cut short or of another format, each byte counts."""
    path = tmp_path / "image.png"
    plain, texts = io.BytesIO(), PngInfo()
    texts.add_text("a", "b")
    texts.add_itxt("c", "猫", zip=True)
    Image.new("RGB", (4, 4)).save(plain, format="PNG")
    Image.new("RGB", (4, 4)).save(path, pnginfo=texts)
    whole = path.read_bytes()
    assert b"tEXt" in whole and b"iTXt" in whole
    assert image_digest(path) == bytes_digest(plain.getvalue())
    large = plain.getvalue() + bytes(1 << 24)  # of which pieces count
    path.write_bytes(large)
    assert image_digest(path) == file_digest(path)
    path.write_bytes(whole + bytes(1 << 24))
    assert image_digest(path) == bytes_digest(large)
    for data in (whole[:-5], whole[: whole.index(b"tEXt") + 2], b"tEXt", b"", whole[8:]):
        path.write_bytes(data)
        assert image_digest(path) == file_digest(path)


@pytest.fixture
def flat(tmp_path) -> Path:
    """CompBench's layout: ids count on over the prompts, of which the second comes first by the alphabet."""
    samples = tmp_path / "flat" / "samples"
    samples.mkdir(parents=True)
    for number, prompt in enumerate(["the b", "the b", "a_c d.", "a_c d."]):
        Image.fromarray(np.full((2, 3, 3), number, np.uint8)).save(samples / f"{prompt}_{number:06d}.png")
    (samples / "notes_12.png").write_bytes(b"not read")
    return tmp_path / "flat"


def test_images_named_after_their_prompts(flat):
    prompts = [(f.name, f.prompt.text, list(f.samples)) for f in prompt_folders(flat)]
    assert prompts == [("00000", "the b", [0, 1]), ("00001", "a_c d.", [2, 3])]
    assert [seed for _, seed, _ in read_all(flat / "samples")] == [0, 1, 2, 3]
    digest = digest_of_images(flat)
    rows = evaluate_images(
        {"a": flat}, PerImage(lambda image, line: [Measure("m", float(image.max()), line["prompt"])])
    )
    assert [(row.seed, row.value, row.reason) for row in rows][2] == (2, 2.0, "a_c d.")
    (flat / "samples" / "the b_000001.png").rename(flat / "samples" / "the b_000009.png")
    assert digest_of_images(flat) != digest


def test_broken_names_and_links_of_such_images_are_told(flat, tmp_path):
    path = flat / "samples" / "the b_000001.png"
    path.rename(tmp_path / "elsewhere.png")
    path.symlink_to(tmp_path / "elsewhere.png")
    with pytest.raises(UserError, match="outside"):
        read_all(flat)
    path.unlink()
    Path(os.fsdecode(bytes(flat / "samples") + b"/\xff_000001.png")).write_bytes(b"")
    with pytest.raises(UserError, match="its name is not UTF-8"):
        read_all(flat)
