"""The way that README and docs/one-gpu.md tell, line by line: draw, look, align, watch, stop, go on, judge, dial.

The lines are read from these pages, so that one that no longer works fails here. `TINY` is all that is put in place of
what they say, and `MORE` what is added so that a line takes no time.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import create_autospec

import pytest
import tiny_pipelines
import torch
import tracking
from hub_in_memory import Hub
from huggingface_hub import HfApi
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from contrapose.cli.main import main

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("few_levels", "undrawn")]

ROOT = Path(__file__).parents[2]
TINY = {
    "M": "model",
    "fp16": "fp32",  # of 16 bits CPUs have the other kind
    "100": "2",
    "200": "4",
    "runs/first@100": "runs/first@2",
    "4": "1",  # images a prompt
    "pickscore": "colourfulness",
    "user/name": "me/first",
}
QUICK = ("--steps", "1", "--device", "cpu")
MORE = {
    "estimate": ("--model", "model"),
    "pairs draw": QUICK,
    "pairs show": ("--device", "cpu"),
    "align": (
        "--precision", "fp32", "--batch-size", "2", "--micro-batch", "2", "--lora-rank", "2", "--learning-rate", "1e-2",
        "--holdout", "2", "--evaluate-every", "0", "--save-every", "1", "--images-every", "1", "--image-steps", "1",
    ),
    "sample": QUICK,
    "evaluate": ("--replicates", "20", "--device", "cpu"),
    "report": (),
    "merge": (),
    "export": (),
    "push": (),
}  # fmt: skip
PROMPTS = ("a red circle", "two green squares", "a blue star left of a red square", "three white circles")


def lines_of(page: Path, heading: str = "") -> list[list[str]]:
    """The command lines in a page's indented blocks, or in those of one section."""
    text = page.read_text(encoding="utf-8")
    if heading:
        text = text.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return [shlex.split(line) for line in re.findall("^    contrapose (.*)$", text, re.MULTILINE)]


def name_of(line: list[str]) -> str:
    """The command's name, of one word or two."""
    return next(name for name in (" ".join(line[:2]), line[0]) if name in MORE)


LINES = [*lines_of(ROOT / "README.md", "A first LoRA of your own"), *lines_of(ROOT / "docs" / "one-gpu.md")]
UNJUDGED = "evaluate --suite none --images base=images/base best=images/best --out looks/"


@dataclass
class Walk:
    """Where the lines were walked, to which hub, and how each ended."""

    folder: Path
    hub: Hub
    codes: list[tuple[str, int]] = field(default_factory=list)

    def pixels(self, images: str) -> list[bytes]:
        """What the images of one folder show."""
        files = sorted((self.folder / "images" / images).glob("*/samples/*.png"))
        return [Image.open(file).tobytes() for file in files]


@pytest.fixture(scope="module")
def walk(undrawn: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walk]:
    """Every line run in a folder of its own, the watched one stopped by Ctrl-C and given again."""
    folder = tmp_path_factory.mktemp("walk")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tiny_pipelines.build_smallest().save_pretrained(folder / "model")
    (folder / "prompts.txt").write_text("".join(f"{number} wooden spoons\n" for number in range(10)))
    (folder / "test.txt").write_text("\n".join(PROMPTS[:2]))
    (folder / "watch.txt").write_text("\n".join(PROMPTS[2:]))
    (folder / "recipes").symlink_to(ROOT / "recipes")
    api = create_autospec(HfApi, instance=True)
    with tracking.stand_in(folder / "packages") as packages, pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("contrapose.publish.hub.HfApi", lambda: api)
        walk = Walk(folder, Hub(api, folder))
        for line in [*LINES, UNJUDGED.split()]:
            if "wandb" in line:
                (packages / "stop").write_text("3 images/01")
                _go(walk, line)
            _go(walk, line)
        yield walk


def _go(walk: Walk, line: list[str]) -> None:
    arguments = [TINY.get(word, word) for word in line]
    more = () if "none" in line else MORE[name_of(line)]  # what nobody judges takes no replicates
    walk.codes.append((shlex.join(line), main([*arguments, *more])))


def test_every_line_works_and_the_one_that_is_stopped_says_so(walk: Walk) -> None:
    failed = [(line, code) for line, code in walk.codes if code]
    assert [code for _, code in failed] == [130]
    assert "--train-steps 200" in failed[0][0]


def test_nothing_is_put_in_place_of_what_the_pages_no_longer_say() -> None:
    words = {word for line in LINES for word in line}
    assert set(TINY) <= words
    assert set(MORE) == {name_of(line) for line in LINES}


def test_the_run_was_lengthened_without_a_step_twice(walk: Walk) -> None:
    run = walk.folder / "runs/first"
    assert json.loads((run / "finished.json").read_text())["steps"] == 4
    measured = [json.loads(line)["step"] for line in (run / "metrics.jsonl").open()]
    assert measured == [1, 2, 3, 4]
    assert walk.pixels("at-100") == walk.pixels("first"), "what the run of 2 steps drew"


def test_metrics_and_images_reached_both_trackers(walk: Walk) -> None:
    sent = tracking.asked(walk.folder / "packages", "log")
    # Ctrl-C came while step 3 was being sent
    assert [entry["step"] for entry in sent if "loss" in entry["values"]] == [3, 3, 4]
    name = "images/01 three white circles (seed 0)"
    assert [entry["step"] for entry in sent if name in entry["values"]] == [2, 3, 3, 4]
    board = EventAccumulator(str(walk.folder / "runs/first/tensorboard")).Reload()
    assert [event.step for event in board.Scalars("loss")] == [1, 2, 3, 4]
    assert [event.step for event in board.Images(name)] == [2, 3, 4]


def test_every_dial_shows(walk: Walk) -> None:
    drawn = [tuple(walk.pixels(name)) for name in ("base", "best", "stronger")]
    assert all(len(pixels) == 2 for pixels in drawn)
    assert len(set(drawn)) == 3
    merged = load_file(walk.folder / "merged/pytorch_lora_weights.safetensors")
    exported = load_file(walk.folder / "first.safetensors")
    assert all(name.startswith("lora_unet_") for name in exported)
    assert sum("lora_down" in name for name in exported) == len(merged) / 2


def test_the_pages_show_what_was_done(walk: Walk) -> None:
    summary = json.loads((walk.folder / "evidence/summary.json").read_text())
    assert set(summary["models"]) == {"base", "best", "stronger"}
    assert set(summary["metrics"]) == {"colourfulness"}
    report = (walk.folder / "report.html").read_text()
    assert all(prompt in report for prompt in PROMPTS), "images that were asked for, and watched ones"
    assert "colourfulness" in report and "wooden spoons" in report
    assert "wooden spoons" in (walk.folder / "pairs.html").read_text()


def test_the_run_is_on_the_hub_with_what_it_drew(walk: Walk) -> None:
    files = walk.hub.uploaded("me/first")
    weights = "pytorch_lora_weights.safetensors"
    assert files[weights] == (walk.folder / "runs/first" / weights).read_bytes()
    assert all(prompt in files["README.md"].decode() for prompt in PROMPTS[2:])
    assert walk.hub.private["me/first"]
