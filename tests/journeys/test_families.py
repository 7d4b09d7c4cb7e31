"""Every family goes the whole way through the command line: draw, check, align, sample."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import every_method
import families
import numpy as np
import pytest
from PIL import Image

from contrapose.cli.main import main

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("few_levels")]

PROMPTS = ("a red circle", "two blue squares above a green star", "a star", "three squares", "two stars", "a cat")


def _run(*arguments: object) -> None:
    assert main([str(a) for a in arguments]) == 0


def _pixels(folder: Path) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path), dtype=int) for path in sorted(folder.glob("*/samples/*.png"))])


@pytest.fixture(scope="module")
def drawn(tiny_family: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> object:
    """A family's model and pairs, drawn once."""
    work = tmp_path_factory.mktemp("drawn")
    prompts = work / "prompts.txt"
    prompts.write_text("\n".join(PROMPTS))

    def draw(name: str) -> tuple[Path, Path]:
        model, pairs = tiny_family(name), work / name
        if not pairs.exists():
            size = ["--sizes", families.of(name).size] if families.of(name).size else []
            _run("pairs", "draw", "--model", model, "--prompts", prompts, "--out", pairs, "--steps", 2, *size)
            _run("pairs", "check", pairs)
        return model, pairs

    return draw


@pytest.fixture(scope="module")
def of_base(
    tiny_family: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], np.ndarray]:
    """What a family's own model makes of two prompts, sampled once."""
    work = tmp_path_factory.mktemp("base")
    return cache(lambda name: _sampled(name, tiny_family(name), work / name))


def _sampled(name: str, model: Path, out: Path, *adapter: object) -> np.ndarray:
    prompts = out.with_suffix(".txt")
    prompts.write_text("\n".join(PROMPTS[:2]))
    size = ["--size", families.of(name).size] if families.of(name).size else []
    options = ["--out", out, "--num-images", 1, "--steps", 2, *size]
    _run("sample", "--model", model, "--prompts", prompts, *adapter, *options)
    return _pixels(out)


@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize("name", families.NAMES)
def test_draw_align_sample(
    drawn: Callable[[str], tuple[Path, Path]],
    of_base: Callable[[str], np.ndarray],
    name: str,
    kind: str,
    tmp_path: Path,
) -> None:
    model, pairs = drawn(name)
    run = tmp_path / "run"
    training = ["--train-steps", 2, "--batch-size", 4, "--micro-batch", 2, "--holdout", 2]
    training += ["--full", "--learning-rate", 1e-3] if kind == "full" else ["--lora-rank", 4, "--learning-rate", 1e-2]
    _run("align", "ddspo", "--beta", 100, "--model", model, "--pairs", pairs, "--out", run, *training)
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert metrics[0]["loss"] == pytest.approx(np.log(2), abs=1e-6), "trainee and reference start alike"
    assert metrics[1]["drift"] > 0
    base, aligned = of_base(name), _sampled(name, model, tmp_path / "aligned", "--adapter", run)
    assert len(base) == 2 and base.shape == aligned.shape
    assert np.abs(base - aligned).max() > 0, "the aligned model's images are its own"


@pytest.mark.parametrize(("name", "full", "family"), every_method.by_turns_with(families.DISTINCT))
def test_every_method(
    drawn: Callable[[str], tuple[Path, Path]], name: str, full: bool, family: str, tmp_path: Path
) -> None:
    """Memory is saved on the way; in full some comparisons ask for no prompt."""
    model, pairs = drawn(family)
    training = ["--train-steps", 1, "--batch-size", 2, "--micro-batch", 2, "--holdout", 0, "--gradient-checkpointing"]
    training += ["--caption-dropout", 0.5] if full and every_method.drops_captions(name) else []
    size = (
        ["--rollout-size", families.of(family).size]
        if families.of(family).size and every_method.draws_groups(name)
        else []
    )
    how = [*every_method.flags(name), *every_method.trainee(full), *training, *size]
    _run("align", name, "--model", model, "--pairs", pairs, "--out", tmp_path / "run", *how)
    assert json.loads((tmp_path / "run/finished.json").read_text())["steps"] == 1
