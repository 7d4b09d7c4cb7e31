"""Runs that consist of several: RealAlign's stages, the fits of data-driven DDSPO, and runs that start at another."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from trained import weights_of

from contrapose.backbones.families.table import load_backbone
from contrapose.core.links import Hinge
from contrapose.errors import UserError
from contrapose.methods import SFT, DataDrivenDDSPO, DiffusionDPO, DiffusionDRO, RealAlign
from contrapose.train.align import align
from contrapose.train.settings import First, Optimisation, Run, Watching
from contrapose.train.stages import stages

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("few_levels")]

FAST = Optimisation(learning_rate=1e-3, schedule="cosine", warmup=1, train_steps=3, batch_size=4, micro_batch=4)
WATCH = Watching(holdout=2, evaluate_every=2, save_every=2)
REAL = RealAlign(beta=50.0, stage1=DiffusionDRO(rollout_steps=2, states=1, rollouts=2, buffer=2))


@pytest.fixture(scope="module", params=["lora", "full"])
def run(request: pytest.FixtureRequest, tiny_model: Path, tiny_pairs: Path) -> Run:
    return Run(
        str(tiny_model), tiny_pairs, REAL, full=request.param == "full", optimisation=FAST, watching=WATCH,
        first=First(first_learning_rate=5e-3, first_train_steps=2),
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole(run: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[int]]:
    """The folder of that run, uninterrupted, and the steps that it told of; left as it is."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return folder, [state.step for state in align(run, folder)]


def _first_line(out: Path) -> dict[str, float]:
    return json.loads((out / "metrics.jsonl").read_text().splitlines()[0])


def _answer(model: str, adapter: Path | None) -> torch.Tensor:
    backbone = load_backbone(model, adapter=adapter)
    x, t = (
        torch.randn(2, *backbone.images.latent_shape, generator=torch.Generator().manual_seed(0)),
        torch.tensor([300, 700]),
    )
    with torch.no_grad():
        return backbone.denoiser.denoise(
            backbone.denoiser.network, x, t, backbone.text.embed(["a red circle", "two stars"])
        )


def test_the_second_stage_begins_where_the_first_one_ended(
    run: Run, whole: tuple[Path, list[int]], tmp_path: Path
) -> None:
    first, second = stages(run, tmp_path)
    assert (first.run.method, second.run) == (REAL.stage1, run)
    assert first.run.optimisation == replace(FAST, train_steps=2, learning_rate=5e-3, schedule="constant", warmup=0)
    assert (first.folder, second.start, second.policies) == (tmp_path / "start", tmp_path / "start", {})
    folder, steps = whole
    assert steps == [0, 1, 2, 0, 1, 2, 3]
    found = _first_line(folder)
    assert found["loss"] == pytest.approx(math.log(2), abs=1e-5), "trainee and reference are one there"
    assert found["drift"] == pytest.approx(0.0, abs=1e-10)


def test_the_first_stage_may_have_an_average_and_a_dropout_of_its_own(run: Run, tmp_path: Path) -> None:
    """RealAlign's first stage is an average and loses captions, its second one neither."""
    own = replace(run, first=First(first_train_steps=2, first_ema_decay=0.9, first_caption_dropout=0.2))
    first, second = stages(own, tmp_path)
    assert (first.run.optimisation.ema_decay, first.run.caption_dropout) == (0.9, 0.2)
    assert first.run.optimisation == replace(
        FAST, train_steps=2, ema_decay=0.9
    )  # rate, schedule and warm-up are the run's
    assert (second.run.optimisation.ema_decay, second.run.caption_dropout) == (0.0, 0.0)
    without = replace(
        run,
        optimisation=replace(FAST, ema_decay=0.9),
        caption_dropout=0.2,
        first=First(first_ema_decay=0.0, first_caption_dropout=0.0),
    )
    first, second = stages(without, tmp_path)
    assert (first.run.optimisation.ema_decay, first.run.caption_dropout) == (0.0, 0.0), "0 is none, and not unset"
    assert (second.run.optimisation.ema_decay, second.run.caption_dropout) == (0.9, 0.2)


@pytest.mark.parametrize(
    "wrong",
    [{"first_train_steps": 0}, {"first_learning_rate": 0.0}, {"first_ema_decay": 1.0}, {"first_caption_dropout": -0.1}],
)
def test_settings_of_the_first_stage_have_their_ranges(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        First(**wrong)  # type: ignore[arg-type]


def test_its_result_is_one_adapter_or_model_on_the_original_base(
    run: Run, whole: tuple[Path, list[int]], tmp_path: Path
) -> None:
    folder, _ = whole
    start = _answer(run.model, folder / "start")
    still = replace(run, start=folder / "start", method=DiffusionDPO(beta=50.0), first=First())
    still = replace(still, optimisation=replace(FAST, learning_rate=1e-12))
    list(align(still, tmp_path / "still"))
    torch.testing.assert_close(_answer(run.model, tmp_path / "still"), start, atol=1e-5, rtol=1e-4)
    assert (_answer(run.model, folder) - start).abs().max() > 1e-5
    assert (start - _answer(run.model, None)).abs().max() > 1e-5


def test_a_run_killed_in_either_stage_ends_the_same(run: Run, whole: tuple[Path, list[int]], tmp_path: Path) -> None:
    folder, _ = whole
    for num in (2, 5):
        states = align(run, tmp_path / str(num))
        for _ in range(num):
            next(states)
        states.close()
        list(align(run, tmp_path / str(num)))
        ours, theirs = weights_of(tmp_path / str(num)), weights_of(folder)
        assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert [state.step for state in align(run, folder)] == [2, 3], "nothing is done twice"


def test_fits_on_the_way_are_those_that_one_could_name(run: Run, tmp_path: Path) -> None:
    run = replace(run, method=DataDrivenDDSPO(beta=50.0))
    list(align(run, tmp_path / "whole"))
    named = []
    for side in ("winner", "loser"):
        fit = replace(run.first.of(run), method=SFT(side))
        list(align(fit, tmp_path / side))
        named.append(tmp_path / side)
    apart = replace(run, policies=(named[0], named[1]), first=First())
    assert len(stages(apart, tmp_path / "apart")) == 1
    list(align(apart, tmp_path / "apart"))
    ours, theirs = weights_of(tmp_path / "apart"), weights_of(tmp_path / "whole")
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert _first_line(tmp_path / "whole")["loss"] == pytest.approx(math.log(2), abs=1e-5)


def test_fits_of_either_kind_serve_a_run_of_either_kind(run: Run, tmp_path: Path) -> None:
    """Here those of LoRA and of the whole network, one of each."""
    for side, full in (("winner", True), ("loser", False)):
        fit = replace(run, method=SFT(side), full=full, lora_rank=None, first=First())
        list(align(fit, tmp_path / side))
    mixed = replace(run, method=DataDrivenDDSPO(), policies=(tmp_path / "winner", tmp_path / "loser"), first=First())
    assert list(align(mixed, tmp_path / "out"))[-1].step == FAST.train_steps


MISTAKES = {
    "first steps of a method without": ({"method": DiffusionDPO()}, "first_train_steps"),
    "policies of a method without": ({"first": First(), "policies": (Path("a"), Path("b"))}, "policies"),
    "first steps beside policies": (
        {"method": DataDrivenDDSPO(), "policies": (Path("a"), Path("b"))},
        "first_train_steps",
    ),
    "an average of a first run of a method without": (
        {"method": DiffusionDPO(), "first": First(first_ema_decay=0.9)},
        "^first_ema_decay: diffusion-dpo begins with no other run",
    ),
    "a share of all captions": ({"caption_dropout": 1.0}, "caption_dropout"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_settings_that_would_be_ignored_are_refused(run: Run, name: str) -> None:
    change, naming = MISTAKES[name]
    with pytest.raises(UserError, match=naming):
        replace(run, **change)


def test_a_start_that_is_no_run_is_told_in_one_line(run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in ("empty", "nowhere"):
        with pytest.raises(UserError, match=folder):
            list(align(replace(run, start=tmp_path / folder), tmp_path / "out"))


def test_several_folders_of_pairs_are_one_run(run: Run, tiny_pairs: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.symlink_to(tiny_pairs)
    with pytest.raises(UserError, match="twice"):
        list(align(replace(run, pairs=(tiny_pairs, copy)), tmp_path / "twice"))
    mixed = replace(run, pairs=(Path(f"{tiny_pairs}:1.5"),), method=DiffusionDPO(link=Hinge()), first=First())
    assert list(align(mixed, tmp_path / "mixed"))[-1].step == FAST.train_steps
