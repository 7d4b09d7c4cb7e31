"""The page of a sweep: one line for each label, images by strength, and nothing that people wrote taken as HTML."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from judging import Measure, OfJudge, PerImage
from PIL import Image

from contrapose.errors import UserError
from contrapose.evaluate.statistics import Interval
from contrapose.evaluate.suites import Unjudged
from contrapose.evaluate.sweep import JudgedBy, claim, folder_of, in_order, sum_up
from contrapose.files import one_writer
from contrapose.guiding.images import Sampling
from contrapose.guiding.settings import Guiding
from contrapose.report.sweep import SweepLine, read_sweep, render, write_sweep_page

SCRIPT = "<script>alert(1)</script>"
PROMPTS = ["a red circle", SCRIPT, '"><img src=x onerror=alert(1)>', "two stars"]


def judge(image: np.ndarray, metadata: dict[str, str]) -> list[Measure]:
    return [Measure("correct", float(image.mean() > 100)), Measure("artefact_rate", float(image.mean()) / 1000)]


def write_sweep(
    folder: Path,
    label: str,
    seed: int = 0,
    judged: bool = True,
    prompts: list[str] = PROMPTS,
    scales: tuple[float, ...] = (0.0, 1.0, 4.0),
    asked: str = "usual",
) -> Path:
    """A sweep whose images are right the more often, the stronger it is."""
    settings = Sampling(SCRIPT, ("p.txt",), steps=17, guiding=Guiding(positive=Path("run")))
    with pytest.MonkeyPatch.context() as patched:  # neither the model nor the run is there
        patched.setattr("contrapose.evaluate.sweep.inputs_of", lambda _: {})
        claim(folder, settings)
    for scale in scales:
        for number, prompt in enumerate(prompts):
            place = folder_of(folder, scale) / f"{number:05d}"
            (place / "samples").mkdir(parents=True)
            (place / "metadata.jsonl").write_text(json.dumps({"prompt": prompt, "tag": "colors"}) + "\n")
            right = np.random.default_rng([seed, number]).random() < 0.3 + 0.2 * scale
            grey = np.full((8, 8, 3), 200 if right else 50, dtype=np.uint8)
            Image.fromarray(grey).save(place / "samples/0000.png")
    suite = OfJudge(PerImage(judge, {"artefact_rate": False})) if judged else Unjudged()
    sum_up(folder, scales, label, JudgedBy(suite, {"question": asked}))
    return folder


def test_page_escapes_and_needs_nothing_else(tmp_path: Path) -> None:
    page = write_sweep_page([read_sweep(write_sweep(tmp_path / "a", SCRIPT))], tmp_path / "a").read_text()
    assert "<script" not in page
    assert "<img src=x" not in page
    assert page.count("&lt;script&gt;") >= 4  # title, heading, prompts and model
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert "url(http" not in page
    assert page.count("<img ") == 3 * len(PROMPTS)


def test_unjudged_images_are_shown(tmp_path: Path) -> None:
    page = render([read_sweep(write_sweep(tmp_path / "a", "A", judged=False))])
    assert "These images were not judged" in page
    assert page.count("<img ") == 3 * len(PROMPTS)
    assert "<svg" not in page


def test_runs_of_one_label_are_one_line(tmp_path: Path) -> None:
    sweeps = [read_sweep(write_sweep(tmp_path / f"a{seed}", "A $x$", seed)) for seed in range(3)]
    sweeps.append(read_sweep(write_sweep(tmp_path / "b", "B <i>")))
    page = write_sweep_page(sweeps, tmp_path / "both").read_text()
    assert "A $x$ (mean of 3 runs)" in page
    assert "B &lt;i&gt;" in page
    assert "<i>" not in page
    assert page.count("<img ") == 2 * 3 * len(PROMPTS)  # the first sweep of each label
    lines = json.loads((tmp_path / "both/summary.json").read_text())["lines"]["correct"]
    assert [len(line["runs"]) for line in lines] == [3, 1]


def test_mean_lowest_and_highest() -> None:
    def run(values: dict[float, float]) -> dict[float, Interval]:
        return {scale: Interval(value, value - 1, value + 1) for scale, value in values.items()}

    assert SweepLine("A", [run({0: 3.0})]).points == {0: Interval(3.0, 2.0, 4.0)}
    several = SweepLine("A", [run({0: 3.0, 1: 5.0}), run({0: 6.0}), run({0: 0.0, 1: 1.0})])
    assert several.points == {0: Interval(3.0, 0.0, 6.0)}


def test_what_cannot_be_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = read_sweep(write_sweep(tmp_path / "a", "A"))
    others = read_sweep(write_sweep(tmp_path / "b", "B", prompts=PROMPTS[::-1]))
    unjudged = read_sweep(write_sweep(tmp_path / "c", "C", judged=False))
    with pytest.raises(UserError, match="other prompts"):
        write_sweep_page([first, others], tmp_path / "out")
    with pytest.raises(UserError, match="same --suite"):
        write_sweep_page([first, unjudged], tmp_path / "out")
    with pytest.raises(UserError, match="holds a sweep itself"):
        write_sweep_page([first, read_sweep(write_sweep(tmp_path / "d", "D"))], tmp_path / "a")
    # some judges' versions are those of their weights alone
    asked = read_sweep(write_sweep(tmp_path / "g", "G", asked="otherwise"))
    with pytest.raises(UserError, match="g: was judged by another version, or other settings, of the judge than"):
        write_sweep_page([first, asked], tmp_path / "out")
    monkeypatch.setattr(PerImage, "version", "2")  # such as other weights, under the same name
    otherwise = read_sweep(write_sweep(tmp_path / "f", "F"))
    with pytest.raises(UserError, match="f: was judged by another version, or other settings, of the judge than"):
        write_sweep_page([first, otherwise], tmp_path / "out")
    monkeypatch.undo()
    with pytest.raises(UserError, match="share no strength"):
        write_sweep_page([first, read_sweep(write_sweep(tmp_path / "e", "A", scales=(2.0,)))], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_another_writes_has_a_fix_that_the_command_takes(tmp_path: Path) -> None:
    first, second = (read_sweep(write_sweep(tmp_path / name, name)) for name in ("a", "b"))
    with (
        one_writer(tmp_path / "both"),
        pytest.raises(UserError, match="writing here; wait for it, or choose another --out"),
    ):
        write_sweep_page([first, second], tmp_path / "both")
    with one_writer(first.folder), pytest.raises(UserError, match=r"writing here; .*--part"):
        write_sweep_page([first], first.folder)


@pytest.mark.parametrize("text", ["", "0 nan", "inf", "0 -inf", "1e400", "0 1001", "1 1", "1 1.0", "0 -0"])
def test_scales_that_are_none(text: str) -> None:
    with pytest.raises(UserError, match="scales"):
        in_order(map(float, text.split()))


def test_scales_are_sorted() -> None:
    assert in_order([2.0, 0.0, -1.0, 0.5]) == [-1.0, 0.0, 0.5, 2.0]
