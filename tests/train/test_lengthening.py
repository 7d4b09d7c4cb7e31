"""A run that is lengthened or cut short is one of that length from the start, to the byte, at a constant rate."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from changing import changed

from contrapose.errors import UserError
from contrapose.methods import CHATS, DDSPO, DiffusionDRO, RealAlign
from contrapose.publish.card import finish_run
from contrapose.runs.folder import RunFolder
from contrapose.train.align import align
from contrapose.train.settings import First, Optimisation, Run, Watching

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("few_levels")]

FAST = Optimisation(learning_rate=1e-2, warmup=3, batch_size=2, micro_batch=2, train_steps=2)
WATCH = Watching(holdout=2, evaluate_every=3, save_every=2, keep=3)
CLOCK = re.compile(rb'"seconds": [^,}\n]*|<!-- contrapose [0-9a-f]+ -->')  # and the card's digest, its name included


@pytest.fixture(scope="module")
def run(tiny_model: Path, tiny_pairs: Path) -> Run:
    return Run(str(tiny_model), tiny_pairs, DDSPO(beta=200.0), optimisation=FAST, watching=WATCH)


@pytest.fixture(scope="module")
def finished(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A finished run of a variant and so many steps: look at it, or copy it to go on from it."""

    @cache
    def folder(variant: str, steps: int, **changes: object) -> Path:
        out = tmp_path_factory.mktemp("finished") / "run-whole"
        trained(of(changed(run, **VARIANTS[variant]), steps, **changes), out)
        return out

    return folder


def of(run: Run, steps: int, **changes: object) -> Run:
    return replace(run, optimisation=replace(run.optimisation, train_steps=steps, **changes))  # type: ignore[arg-type]


VARIANTS: dict[str, dict[str, Any]] = {
    "lora": {},
    "full": {"full": True},
    "average": {"ema_decay": 0.9},
    "policies": {"method": CHATS()},
}


def trained(run: Run, out: Path, until: int | None = None) -> list[int]:
    """Train, as a kill just after a step; the card is the command's."""
    states, steps = align(run, out), []
    for state in states:
        steps.append(state.step)
        if state.step == until:
            break
    states.close()
    if until is None:
        finish_run(out)
    return steps


def content(out: Path) -> dict[str, bytes]:
    """Every file's bytes but for clocks; a model card names the run's folder."""
    files = [path for path in out.rglob("*") if path.is_file() and "tensorboard" not in path.parts]
    return {
        path.relative_to(out).as_posix(): CLOCK.sub(b"", path.read_bytes()).replace(out.name.encode(), b"NAME")
        for path in files
    }


def same(one: Path, other: Path) -> bool:
    ours, theirs = content(one), content(other)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []
    return True


@pytest.mark.parametrize("variant", VARIANTS)
def test_longer_is_as_long_from_the_start(
    run: Run, finished: Callable[..., Path], tmp_path: Path, variant: str
) -> None:
    grown = shutil.copytree(finished(variant, 3), tmp_path / "run-grown")
    assert trained(of(changed(run, **VARIANTS[variant]), 5), grown) == [3, 4, 5]
    assert same(grown, finished(variant, 5))
    assert RunFolder(grown).steps == (2, 4, 5), "3 was the last step, and is not due"


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_shorter_is_as_short_from_the_start(run: Run, finished: Callable[..., Path], tmp_path: Path, kind: str) -> None:
    cut = shutil.copytree(finished(kind, 5), tmp_path / "run-cut")
    assert trained(of(changed(run, **VARIANTS[kind]), 4), cut) == [4]
    assert same(cut, finished(kind, 4))


@pytest.mark.parametrize("until", [3, 4, 5])
def test_killed_while_it_is_lengthened(run: Run, finished: Callable[..., Path], tmp_path: Path, until: int) -> None:
    grown = shutil.copytree(finished("lora", 3), tmp_path / "run-grown")
    trained(of(run, 5), grown, until)
    assert not RunFolder(grown).finished
    assert RunFolder(grown).weights.parent.name == "checkpoints", "no weights of an end that is none"
    assert not (grown / "README.md").exists()
    trained(of(run, 5), grown)
    assert same(grown, finished("lora", 5))


def test_the_users_own_words_stay_on_the_card(run: Run, finished: Callable[..., Path], tmp_path: Path) -> None:
    grown = shutil.copytree(finished("lora", 3), tmp_path / "run-grown")
    card = "my own words\n" + (grown / "README.md").read_text()
    (grown / "README.md").write_text(card)
    trained(of(run, 5), grown)
    assert (grown / "README.md").read_text() == card


@pytest.mark.parametrize("kept", ["metrics.jsonl", "checkpoints", "pytorch_lora_weights.safetensors"])
def test_what_no_settings_tell_of_is_not_taken_for_a_run(
    run: Run, finished: Callable[..., Path], tmp_path: Path, kept: str
) -> None:
    """Of a run that is half deleted, or weights of another trainer's."""
    out = tmp_path / "half"
    out.mkdir()
    whole = finished("lora", 3) / kept
    (shutil.copytree if whole.is_dir() else shutil.copy)(whole, out / kept)
    before = content(out)
    with pytest.raises(UserError, match=rf"{kept}: is there without the run\.yaml"):
        next(align(of(run, 3), out))
    assert content(out) == before


def test_an_unfinished_run_may_be_of_any_length(run: Run, finished: Callable[..., Path], tmp_path: Path) -> None:
    assert trained(of(run, 5), tmp_path / "run-cut", 3) == [0, 1, 2, 3]
    trained(of(run, 3), tmp_path / "run-cut")
    assert same(tmp_path / "run-cut", finished("lora", 3))


REFUSED = {
    "a schedule": ({"schedule": "cosine"}, 5, r"run of 4 steps on a cosine schedule, .*choose another --out"),
    "steps before the kept ones": ({}, 1, r"cannot be cut to 1 steps, .*not kept \(those that are: 2, 4\)"),
    "a step between": ({}, 3, r"cannot be cut to 3 steps, .*not kept \(those that are: 2, 4\)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused(run: Run, finished: Callable[..., Path], tmp_path: Path, name: str) -> None:
    changes, steps, told = REFUSED[name]
    out = shutil.copytree(finished("lora", 4, **changes), tmp_path / "run")
    before = content(out)
    with pytest.raises(UserError, match=told) as caught:
        next(align(of(run, steps, **changes), out))
    assert "\n" not in str(caught.value)
    assert content(out) == before
    with pytest.raises(UserError, match=r"\(optimisation.learning_rate differ\)"):
        next(align(of(run, steps, learning_rate=1.0, **changes), out))


def test_without_checkpoints_nothing_goes_on(run: Run, tmp_path: Path) -> None:
    trained(run, tmp_path)
    kept = shutil.copytree(tmp_path / "checkpoints/step-000002", tmp_path / "aside")
    shutil.rmtree(tmp_path / "checkpoints")
    before = content(tmp_path)
    with pytest.raises(UserError, match="has kept no step to go on from to 5; choose another --out"):
        next(align(of(run, 5), tmp_path))
    assert content(tmp_path) == before
    shutil.copytree(kept, tmp_path / "checkpoints/step-000002")
    (tmp_path / "checkpoints/step-000002/training.safetensors").write_bytes(b"broken")
    before = content(tmp_path)
    with pytest.raises(UserError, match="has kept no step that is whole"):
        next(align(of(run, 5), tmp_path))
    assert content(tmp_path) == before
    assert trained(run, tmp_path) == [2], "it is as finished as it was"


def test_of_several_stages_the_last_one_is_lengthened(run: Run, tmp_path: Path) -> None:
    method = RealAlign(beta=50.0, stage1=DiffusionDRO(rollout_steps=2, states=1, rollouts=2, buffer=2))
    run = replace(run, method=method)
    trained(run, tmp_path / "run-grown")
    with pytest.raises(UserError, match=r"start: has 2 steps, and .* set first_train_steps to 2"):
        next(align(of(run, 3), tmp_path / "run-grown"))
    longer = replace(of(run, 3), first=First(first_train_steps=2))
    assert trained(longer, tmp_path / "run-grown") == [2, 2, 3]
    trained(longer, tmp_path / "run-whole")
    assert same(tmp_path / "run-grown", tmp_path / "run-whole")
