"""Files of an evaluation, of a sweep and of images that are broken: one line names them, and nothing is changed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from judging import Measure, OfJudge, PerImage, as_prompts
from PIL import Image

from contrapose.cli.main import main
from contrapose.evaluate import sweep
from contrapose.guiding.images import Sampling
from contrapose.guiding.settings import Guiding
from contrapose.worlds.shapes import suite
from contrapose.worlds.shapes.grammar import prompts

LINES = prompts("dev", 1)
CONTENTS = {
    "empty": b"",
    "binary": bytes(range(256)),
    "null": b"null",
    "list": b"[1, 2]",
    "number": b"5",
    "text": b'"abc"',
    "deep": b"[" * 100_000,
    "mapping": b'{"a": 1}',
    "surrogates": b'{"a": "\\ud83d"}',
}


def write_images(folder: Path, broken: int) -> Path:
    """Renders that are right for their prompts, but for the first `broken`, which are black."""
    for number, seed, image in suite.ceiling_images(as_prompts(LINES), [0]):
        samples = folder / f"{number:05d}" / "samples"
        samples.mkdir(parents=True)
        (samples.parent / "metadata.jsonl").write_text(json.dumps(LINES[number]) + "\n", encoding="utf-8")
        Image.fromarray(image * (number >= broken)).save(samples / f"{seed:04d}.png")
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models' images, judged in `out`, and two sweeps, `a` and `b`."""
    folder = tmp_path_factory.mktemp("place")
    for name, broken in (("base", 3), ("better", 0)):
        write_images(folder / name, broken)
    assert main(evaluation(folder)) == 0
    for name in "ab":
        write_sweep(folder / name)
    return folder


def evaluation(folder: Path) -> list[str]:
    images = ["--images", *(f"{name}={folder / name}" for name in ("base", "better"))]
    return ["evaluate", *images, "--replicates", "50", "--out", str(folder / "out")]


def write_sweep(folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patched:  # neither the model nor the run is there
        patched.setattr(sweep, "inputs_of", lambda _: {})
        sweep.claim(folder, Sampling("m", ("p.txt",), steps=1, guiding=Guiding(positive=Path("run"))))
    for scale in (0.0, 1.0):
        write_images(sweep.folder_of(folder, scale), 2)
    judge = PerImage(lambda image, _: [Measure("correct", float(image.mean() > 0))])
    sweep.sum_up(folder, [0.0, 1.0], "", sweep.JudgedBy(OfJudge(judge), {}))


@pytest.fixture
def breaking(place: Path) -> Iterator[Callable[[str, bytes], Path]]:
    """Write other bytes to a file of `place` until the test ends."""
    kept: dict[Path, bytes] = {}

    def write(name: str, data: bytes) -> Path:
        kept[place / name] = (place / name).read_bytes()
        (place / name).write_bytes(data)
        return place / name

    yield write
    for path, data in kept.items():
        path.write_bytes(data)


def one_line(capsys: pytest.CaptureFixture[str], code: int) -> str:
    lines = [line for line in capsys.readouterr().err.splitlines() if "judging" not in line]  # the bar
    assert (code, len(lines)) == (2, 1), lines
    return lines[0]


@pytest.mark.parametrize("name", ["evidence.yaml", "inputs.yaml", "summary.json", "rows.parquet"])
@pytest.mark.parametrize("content", CONTENTS)
def test_evaluated_again(
    name: str, content: str, place: Path, breaking: Callable[[str, bytes], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = breaking(f"out/{name}", CONTENTS[content])
    others = {other: other.read_bytes() for other in (place / "out").glob("*.*")}
    line = one_line(capsys, main(evaluation(place)))
    assert str(path) in line or (str(path.parent) in line and name == "inputs.yaml")
    assert {other: other.read_bytes() for other in (place / "out").glob("*.*")} == others


@pytest.mark.parametrize("name", ["images.yaml", "summary.json", "rows.parquet"])
@pytest.mark.parametrize("content", CONTENTS)
def test_sweeps_compared(
    name: str, content: str, place: Path, breaking: Callable[[str, bytes], Path], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path = breaking(f"b/{name}", CONTENTS[content])
    code = main(["sweep", "--compare", str(place / "a"), str(place / "b"), "--out", str(tmp_path / "both")])
    if name == "images.yaml" and content in ("mapping", "surrogates"):
        assert code == 0  # settings of another make are shown as they are
        return
    assert str(path.parent) in one_line(capsys, code)
    assert not (tmp_path / "both").exists()


@pytest.mark.parametrize(
    "known",
    [
        {"label": 5}, {"label": None}, {"scales": []}, {"scales": 5}, {"scales": ["x"]}, {"scales": [0, 0]},
        {"scales": [0, float("nan")]}, {"scales": [0, 10**400]}, {"scales": [0, 7]}, {"judged": "yes"}, {"more": 1},
    ],
    ids=str,
)  # fmt: skip
def test_what_a_sweep_says_of_itself(
    known: dict, place: Path, breaking: Callable[[str, bytes], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = json.loads((place / "b/summary.json").read_text())
    values["sweep"] |= known
    path = breaking("b/summary.json", json.dumps(values).encode())
    code = main(["sweep", "--compare", str(place / "a"), str(place / "b"), "--out", str(tmp_path / "both")])
    assert str(path.parent) in one_line(capsys, code)


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("name", ["metadata.jsonl", "samples/0000.png"])
def test_images_that_are_broken(
    name: str, content: str, place: Path, breaking: Callable[[str, bytes], Path], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path = breaking(f"better/00001/{name}", CONTENTS[content])
    images = ["--images", f"base={place / 'base'}", f"better={place / 'better'}"]
    assert str(path) in one_line(capsys, main(["evaluate", *images, "--out", str(tmp_path / "new")]))
    assert not (tmp_path / "new").exists()
