"""Detections made elsewhere: GenEval's own results are judged again to the same verdicts, without any network."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_vision
from PIL import Image
from said import said

from contrapose.cli.main import main
from contrapose.errors import UserError
from contrapose.evaluate.geneval.recorded import read_records
from contrapose.evaluate.geneval.suite import GenEval
from contrapose.evaluate.run import evaluate_images

CAT = {"tag": "colors", "include": [{"class": "cat", "count": 1, "color": "red"}], "prompt": "a red cat"}
CUPS = {
    "tag": "counting",
    "include": [{"class": "cup", "count": 2}],
    "exclude": [{"class": "cup", "count": 3}],
    "prompt": "two cups",
}
BESIDE = {
    "tag": "position",
    "include": [{"class": "dog", "count": 1}, {"class": "cat", "count": 1, "position": ["left of", 0]}],
    "prompt": "a cat left of a dog",
}
BOX = [0.0, 0.0, 8.0, 8.0]

# What GenEval's script writes of each image, word for word, and whether it is correct by its rules.
CASES = [
    (CAT, {"cat": [[*BOX, 0.9], [*BOX, 0.4]]}, True, ""),
    (CAT, {"cat": [[*BOX, 0.9]]}, False, "expected red cat>=1, found 0 red; and 1 blue"),
    (CAT, {}, False, "expected cat>=1, found 0"),
    (CUPS, {"cup": [[*BOX, 0.99]] * 2}, True, ""),
    (CUPS, {"cup": [[*BOX, 0.99]] * 3}, False, "expected cup<3, found 3"),
    (BESIDE, {"dog": [[40.0, 0.0, 48.0, 8.0, 0.8]], "cat": [[*BOX, 0.8]]}, True, ""),
    (BESIDE, {"dog": [[*BOX, 0.8]], "cat": [[40.0, 0.0, 48.0, 8.0, 0.8]]}, False,
     "expected cat left of target, found right of target"),
]  # fmt: skip


def written(folder: Path, **changes: object) -> tuple[Path, Path]:
    """A folder of images with an image a case, and GenEval's file of them, each line with these fields more or None."""
    lines = []
    for number, (metadata, details, correct, reason) in enumerate(CASES):
        samples = folder / "images" / f"{number:05d}" / "samples"
        samples.mkdir(parents=True)
        (samples.parent / "metadata.jsonl").write_text(json.dumps(metadata), encoding="utf-8")
        Image.new("RGB", (64, 16), (200, 30, 30)).save(samples / "0000.png")
        line = {
            "filename": f"elsewhere/{number:05d}/samples/0000.png",
            "tag": metadata["tag"],
            "prompt": metadata["prompt"],
            "correct": correct,
            "reason": reason,
            "metadata": json.dumps(metadata),
            "details": json.dumps(details),
            **changes,
        }
        lines.append(json.dumps({name: value for name, value in line.items() if value is not None}))
    path = folder / "results.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "images", path


def verdicts(images: Path, suite: GenEval) -> list[bool]:
    return [row.value == 1 for row in evaluate_images({"base": images}, suite.load("cpu"))]


def test_genevals_own_file_is_judged_as_geneval_judged_it(tmp_path):
    images, path = written(tmp_path)
    suite = GenEval(detector="nowhere", clip="nowhere", detections=(f"base={path}",))
    assert verdicts(images, suite) == [correct for _, _, correct, _ in CASES]


def test_words_of_a_verdict_tell_colours(tmp_path):
    _, path = written(tmp_path)
    records = read_records(path)
    assert [records[number, 0].colors for number in range(3)] == [{"cat": ["red"]}, {"cat": ["blue"]}, {}]
    two = {"tag": "colors", "include": [{"class": "cup", "count": 3, "color": "red"}], "prompt": "p"}
    reason = "expected red cup>=3, found 1 red; and 1 red, 2 pink"
    line = {
        "filename": "0/samples/1.png",
        "metadata": json.dumps(two),
        "details": json.dumps({"cup": [[*BOX, 0.9]] * 4}),
        "reason": reason,
    }
    path.write_text(json.dumps(line))
    assert read_records(path)[0, 1].colors == {"cup": ["red", "pink", "pink"]}


def test_a_file_without_words_is_judged_by_clip(tmp_path):
    images, path = written(tmp_path, reason=None)
    with pytest.raises(UserError, match="nowhere"):
        GenEval(clip="nowhere", detections=(f"base={path}",)).load("cpu")
    clip = tiny_vision.save_clip(tmp_path / "clip")
    suite = GenEval(detector="nowhere", clip=str(clip), detections=(f"base={path}",))
    assert verdicts(images, suite)[2:] == [correct for _, _, correct, _ in CASES[2:]]
    seen = [row.seen or "" for row in evaluate_images({"base": images}, suite.load("cpu"))]
    (shown,) = json.loads(seen[0])["colors"]["cat"]
    assert verdicts(images, suite)[0] == (shown == "red")


@pytest.fixture
def judging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Evaluates a folder of images by a file of detections; gives what it printed, or its one line of complaint."""
    monkeypatch.chdir(tmp_path)

    def run(*more: str, detections: str = "base=results.jsonl", images: str = "base=images", out: str = "out") -> str:
        flags = ["--suite", "geneval", "--detections", *detections.split(), "--images", *images.split()]
        code = main(["evaluate", *flags, "--replicates", "20", "--out", out, *more])
        assert code == 0 or not (tmp_path / out).exists()
        return said(code, capsys)

    return run


def test_results_go_out_and_come_in_again(judging, tmp_path):
    written(tmp_path)
    assert judging().startswith("GenEval (detections made elsewhere)\n")
    assert "made elsewhere" in (tmp_path / "out/results/base.txt").read_text()
    again = judging(detections="base=out/results/base.jsonl", out="again")
    assert "judged already" in judging(detections="base=out/results/base.jsonl", out="again")
    assert again == judging(out="third")
    first, second = ((tmp_path / name / "results/base.jsonl").read_text() for name in ("out", "again"))
    assert first == second


def test_models_may_be_added_with_their_detections(judging, tmp_path):
    _, path = written(tmp_path)
    judging()
    both = {"detections": "base=results.jsonl other=results.jsonl", "images": "base=images other=images"}
    assert "already" not in judging(**both)
    assert "already" in judging(**both)
    path.write_text(path.read_text().replace("0.99", "0.5"))
    command = ["evaluate", "--suite", "geneval", "--images", "base=images", "--replicates", "20", "--out", "out"]
    assert main([*command, "--detections", "base=results.jsonl"]) == 2


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line 2: not readable as JSON"),
        ({"filename": "grid.png"}, "line 2: `filename` is 'grid.png', which does not end like"),
        ({"details": None}, "line 2: has no `details`"),
        ({"details": "["}, "line 2: `details` is not readable as JSON"),
        ({"details": {"cat": [[1, 2, 3, 4]]}}, "line 2: a box of cat is not"),
        ({"details": {"cat": [[1, 2, 3, 4, float("nan")]]}}, "line 2: a box of cat is not"),
        ({"details": {"cat": [[0, 0, 9, 10**400, 0.9]]}}, "line 2: a box of cat is not"),
        ({"details": {"cat": 3}}, "line 2: `details` of cat are not a list"),
        ({"colors": {"cat": "red"}}, "line 2: `colors` of cat are not a list"),
        ({"metadata": {"prompt": "p"}}, "line 2: metadata of prompt 'p': `include` asks for nothing"),
        ({"metadata": {**CAT, "tag": "counting"}}, "line 2: `tag` of its metadata is not that of images/00001"),
        ({"filename": "x/00000/samples/0000.png"}, "line 2: is of the same image as results.jsonl: line 1"),
        ({"filename": "x/00009/samples/0000.png"}, "has none of 1 images, the first images/00001/samples/0000.png"),
    ],
)
def test_a_broken_file_is_told_by_its_line(judging, tmp_path, line, words):
    _, path = written(tmp_path)
    lines = path.read_text().splitlines()
    lines[1] = line if isinstance(line, str) else json.dumps({**json.loads(lines[1]), **line})
    path.write_text("\n".join(lines))
    assert words in judging()


def test_models_and_files_are_the_same(judging, tmp_path):
    written(tmp_path)
    assert "--images has no other" in judging(detections="base=results.jsonl other=results.jsonl")
    assert "--detections has no base" in judging(detections="other=results.jsonl")
    assert "write NAME=FILE" in judging(detections="results.jsonl")
    assert "no such file" in judging(detections="base=nothing.jsonl")
    assert "self_test" in judging("--self-test", "images")
    (tmp_path / "results.jsonl").write_text("")
    assert "holds no detections" in judging()


def test_a_box_outside_its_image_has_no_colour(tmp_path):
    images, path = written(tmp_path, reason=None, details=json.dumps({"cat": [[100, 0, 120, 9, 0.9]]}))
    clip = tiny_vision.save_clip(tmp_path / "clip")
    with pytest.raises(UserError, match=r"line 1: a box lies outside its image of 64x16"):
        verdicts(images, GenEval(clip=str(clip), detections=(f"base={path}",)))
