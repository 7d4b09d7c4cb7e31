"""Images while training: what is drawn, by what weights, and that training does not notice."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
from changing import changed
from PIL import Image
from trained import metrics_of, until

from contrapose.backbones.settings import Adapters
from contrapose.cli.main import main
from contrapose.errors import UserError
from contrapose.judges.colours import Colours
from contrapose.judges.judge import Marks
from contrapose.methods import CHATS, DDSPO
from contrapose.publish.card import finish_run
from contrapose.report.runs import Fact, facts, read_run
from contrapose.runs.best import read_best
from contrapose.runs.folder import RunFolder
from contrapose.runs.watched import About, Scored, film, read_about, watched_folder, watched_steps, write_about
from contrapose.store.prompts import Prompt
from contrapose.train.align import align
from contrapose.train.best import best_of
from contrapose.train.settings import Optimisation, Run, Watching
from contrapose.worlds.shapes.suite import Shapes

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("few_levels")]

FAST = Optimisation(learning_rate=1e-2, train_steps=3, batch_size=2, micro_batch=2)
PLAIN = Watching(holdout=2, evaluate_every=2, save_every=1, keep=9)
PROMPTS = ("a red circle", "two green triangles")
WATCH = replace(PLAIN, prompts=PROMPTS, images_every=2, image_steps=2, num_images=2, judges=(Colours(),))


@pytest.fixture(scope="module")
def run(tiny_model: Path, tiny_pairs: Path) -> Run:
    return Run(str(tiny_model), tiny_pairs, DDSPO(beta=200.0), optimisation=FAST, watching=WATCH)


@pytest.fixture(scope="module")
def finished(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The folder of a finished run with these changes: look at it, or copy it to go on from it."""

    @cache
    def folder(**changes: Any) -> Path:
        out = tmp_path_factory.mktemp("finished") / "run"
        list(align(changed(run, **changes), out))
        return out

    return folder


def files(out: Path, below: str = "images") -> dict[str, bytes]:
    paths = [path for path in (out / below).rglob("*") if path.is_file()]
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in paths}


def lines(out: Path) -> list[str]:
    return [json.dumps(line) for line in metrics_of(out)]


def without_judges(out: Path) -> list[dict[str, float]]:
    left = [{name: v for name, v in line.items() if not name.startswith("judged/")} for line in metrics_of(out)]
    return [line for line in left if line["step"]]


KINDS: dict[str, dict[str, Any]] = {
    "lora": {},
    "full": {"full": True},
    "average": {"ema_decay": 0.9},
    "policies": {"method": CHATS()},
    "text": {"adapters": Adapters(train_text_encoder=True)},
}


@pytest.mark.parametrize("kind", KINDS)
def test_training_does_not_notice(run: Run, finished: Callable[..., Path], tmp_path: Path, kind: str) -> None:
    watched = finished(**KINDS[kind])
    list(align(changed(run, watching=PLAIN, **KINDS[kind]), tmp_path))
    assert without_judges(watched) == without_judges(tmp_path)
    assert files(watched, "checkpoints") == files(tmp_path, "checkpoints")
    assert list(watched_steps(watched)) == [0, 2, 3]


@pytest.fixture(scope="module")
def sampled(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str | None], Path]:
    """The folder of images that `sample` makes of the prompts with an adapter, or of the base."""
    folder = tmp_path_factory.mktemp("sampled")
    (folder / "prompts.txt").write_text("\n".join(PROMPTS))
    prompts = ["--prompts", str(folder / "prompts.txt")]
    how = ["--num-images", "2", "--steps", "2", "--batch-size", "1"]

    @cache
    def sample(adapter: str | None) -> Path:
        out = tmp_path_factory.mktemp("images") / "out"
        named = ["--adapter", adapter] if adapter else []
        assert main(["sample", "--model", run.model, *prompts, *how, *named, "--out", str(out)]) == 0
        return out

    return sample


@pytest.mark.parametrize("kind", ["lora", "full", "average", "text"])
def test_images_are_those_of_the_saved_weights(
    sampled: Callable[[str | None], Path], finished: Callable[..., Path], kind: str
) -> None:
    trained = finished(**KINDS[kind])
    for step in (0, 2, 3):
        out = sampled(f"{trained}@{step}" if step else None)
        for name in ("00000/samples/0001.png", "00001/samples/0000.png"):
            drawn = np.asarray(Image.open(trained / f"images/step-00000{step}" / name), dtype=int)
            again = np.asarray(Image.open(out / name), dtype=int)
            assert np.abs(drawn - again).max() <= 1
    first, *_, last = film(trained)[0].paths.values()
    assert first.read_bytes() != last.read_bytes()


@pytest.mark.parametrize("killed_after", [0, 1, 2])
def test_killed_and_resumed_is_uninterrupted(
    run: Run, finished: Callable[..., Path], tmp_path: Path, killed_after: int
) -> None:
    run = changed(run, save_every=2)
    whole = finished(save_every=2)
    until(align(run, tmp_path), killed_after)
    list(align(run, tmp_path))
    assert files(tmp_path) == files(whole)
    assert lines(tmp_path) == lines(whole)


def test_lengthened_and_cut_have_the_images_of_their_length(
    run: Run, finished: Callable[..., Path], tmp_path: Path
) -> None:
    grown = shutil.copytree(finished(), tmp_path / "grown")
    list(align(changed(run, train_steps=4), grown))
    whole = finished(train_steps=4)
    assert files(grown) == files(whole)
    assert lines(grown) == lines(whole)
    list(align(run, grown))
    assert files(grown) == files(finished())
    assert lines(grown) == lines(finished())


def test_an_image_depends_on_its_prompt_and_seed_alone(run: Run, tmp_path: Path) -> None:
    run = replace(run, watching=replace(WATCH, judges=()))
    until(align(run, tmp_path / "both"), 1)
    one = replace(run, watching=replace(run.watching, prompts=PROMPTS[1:], num_images=1))
    until(align(one, tmp_path / "one"), 1)
    alone = (tmp_path / "one/images/step-000000/00000/samples/0000.png").read_bytes()
    assert alone == (tmp_path / "both/images/step-000000/00001/samples/0000.png").read_bytes()


def test_judges_give_intervals_from_the_base_on(finished: Callable[..., Path]) -> None:
    judged = {step: line for line in RunFolder(finished()).metrics() if "judged/colourfulness" in line
              for step in [line["step"]]}  # fmt: skip
    assert list(judged) == [0, 2, 3]
    for line in judged.values():
        low, value, high = (line[f"judged/colourfulness{end}"] for end in ("/low", "", "/high"))
        assert low < value < high


def test_dev_prompts_are_judged_and_not_kept(run: Run, tmp_path: Path) -> None:
    (tmp_path / "dev.txt").write_text("a white star\na green square\na red square\n")
    watching = replace(WATCH, prompts=(), dev_prompts=tmp_path / "dev.txt")
    list(align(replace(run, watching=watching), tmp_path / "run"))
    assert film(tmp_path / "run") == []
    assert sorted(files(tmp_path / "run")) == [f"images/step-00000{step}/watched.json" for step in (0, 2, 3)]
    assert "judged/colourfulness" in RunFolder(tmp_path / "run").metrics()[-1]


def test_the_suite_of_the_shapes_world_judges_its_own_prompts(run: Run, tmp_path: Path) -> None:
    assert main(["shapes", "prompts", str(tmp_path / "dev.jsonl"), "--split", "dev", "--per-tag", "1"]) == 0
    watching = replace(
        WATCH, prompts=(), judges=(), keep_best="shapes", dev_prompts=tmp_path / "dev.jsonl", num_images=1
    )
    until(align(replace(run, watching=watching), tmp_path / "run"), 1)
    first = RunFolder(tmp_path / "run").metrics()[0]
    assert [name for name in first if not name.endswith(("/low", "/high"))] == [
        "step", "judged/correct", "judged/shape_fidelity", "judged/artefact_rate",
        "judged/roughness", "judged/tint", "judged/gradient", "judged/specks",
    ]  # fmt: skip
    with pytest.raises(UserError, match="'a red circle': its metadata is not of the shapes world"):
        next(align(replace(run, watching=replace(WATCH, judges=(Shapes(),))), tmp_path / "none"))
    assert not (tmp_path / "none").exists()


def test_prompts_may_be_added_to_a_run_and_taken_away(run: Run, tmp_path: Path) -> None:
    plain = replace(run, watching=PLAIN)
    until(align(plain, tmp_path), 1)
    until(align(run, tmp_path), 2)
    assert list(watched_steps(tmp_path)) == [2]
    list(align(plain, tmp_path))
    assert list(watched_steps(tmp_path)) == [2], "what is there stays"


def test_a_step_that_is_judged_anew_of_other_prompts_has_their_scores(run: Run, tmp_path: Path) -> None:
    until(align(run, tmp_path), 2)
    before = metrics_of(tmp_path)[-1]
    list(align(replace(run, watching=replace(WATCH, prompts=("a blue square",))), tmp_path))
    about = read_about(watched_folder(tmp_path, 2))
    assert about is not None and set(about.prompts) == {"a blue square"}
    [line] = [line for line in metrics_of(tmp_path) if line["step"] == 2]
    assert line["judged/colourfulness"] == pytest.approx(fmean(about.scores["colourfulness"].values))
    assert "judged/colourfulness/low" in before and "judged/colourfulness/low" not in line, "one prompt has no interval"


@pytest.mark.parametrize(("changes", "told"), [
    ({"prompts": ("",)}, "prompts: '' is no prompt"),
    ({"prompts": ("nowhere.txt",)}, "nowhere.txt: no such file"),
    ({"image_size": "17x16"}, "size 17x16: this model makes images"),
])  # fmt: skip
def test_what_cannot_be_drawn_is_refused_before_anything_is_written(
    run: Run, tmp_path: Path, changes: dict[str, object], told: str
) -> None:
    with pytest.raises(UserError, match=told):
        next(align(replace(run, watching=replace(WATCH, **changes)), tmp_path / "out"))  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_judges_without_images_are_refused() -> None:
    with pytest.raises(UserError, match="judges: there is nothing to judge"):
        Watching(judges=(Colours(),))
    with pytest.raises(UserError, match="dev_prompts: nobody judges them"):
        Watching(dev_prompts=Path("dev.txt"))


@pytest.fixture
def chosen(run: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run whose judge is of one opinion a step, the best at step 2, and for both prompts alike or not."""
    opinions = iter([(0.1, 0.2), (0.3, 0.5), (0.9, 1.1), (0.6, 0.8), (0.7, 0.9)])

    class Opinion:
        name = "colourfulness"
        version = "1"
        higher_is_better = {"colourfulness": True}  # noqa: RUF012

        def __call__(self, images: list[Image.Image], prompts: list[Prompt]) -> dict[str, Marks]:
            values = dict(zip(PROMPTS, next(opinions), strict=True))
            return {self.name: Marks(np.array([values[prompt.text] for prompt in prompts]))}

    monkeypatch.setattr(Colours, "load", lambda self, device: Opinion())
    watching = replace(WATCH, judges=(), keep_best="colourfulness", images_every=0, save_every=1, keep=1)
    return replace(run, watching=watching, optimisation=replace(FAST, train_steps=4))


def test_the_best_step_is_kept_and_told(chosen: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "contrapose")
    list(align(chosen, tmp_path / "run"))
    run = RunFolder(tmp_path / "run")
    assert run.steps == (2, 4), "the best, and the latest that --keep leaves"
    assert RunFolder(f"{tmp_path}/run@best").weights == RunFolder(f"{tmp_path}/run@2").weights
    best = read_best(tmp_path / "run")
    assert best is not None and (best.step, best.score.value, best.last_score.value) == (2, 1.0, 0.8)
    assert (best.over_last.value, best.over_last.decides) == (pytest.approx(0.2), True)
    told = [record.getMessage() for record in caplog.records if "best kept step" in record.getMessage()]
    assert told == [f"{tmp_path}/run: the best kept step, {tmp_path}/run@best, is {best.sentence}"]
    finish_run(tmp_path / "run")
    assert "- Best kept step: step 2 by colourfulness" in (tmp_path / "run/README.md").read_text()
    assert Fact("Best step", best.sentence) in facts(read_run(tmp_path / "run"))
    sampled = ["--prompts", str(tmp_path / "p.txt"), "--num-images", "1", "--steps", "2", "--out", str(tmp_path / "i")]
    (tmp_path / "p.txt").write_text("a red circle")
    assert main(["sample", "--model", chosen.model, "--adapter", f"{tmp_path}/run@best", *sampled]) == 0


def test_without_a_best_step_its_name_is_refused(run: Run, tmp_path: Path) -> None:
    until(align(run, tmp_path), 1)
    with pytest.raises(UserError, match=r"@best: no judge chose a best step; name a step, or train with --keep-best"):
        _ = RunFolder(f"{tmp_path}@best").weights


def test_a_difference_that_may_be_chance_is_told(tmp_path: Path) -> None:
    for step, values in {0: [1.0, 1.0, 1.0], 5: [2.0, 1.0, 1.4], 9: [1.0, 1.5, 1.0]}.items():
        watched_folder(tmp_path, step).mkdir(parents=True)
        about = About({}, ["a", "b", "c"], ["all"] * 3, {"beauty": Scored(True, "1", values)})
        write_about(watched_folder(tmp_path, step), about)
    best = best_of(tmp_path, [5, 9])
    assert best is not None and best.step == 5
    assert best.sentence.count("cannot be told from none") == 2
    other = About({}, ["a", "b", "c"], ["all"] * 3, {"beauty": Scored(True, "2", [9.0, 9.0, 9.0])})
    write_about(watched_folder(tmp_path, 5), other)
    best = best_of(tmp_path, [5, 9])
    assert best is not None and best.step == 9, "another version of the judge does not compare"


@pytest.mark.parametrize("killed_after", [1, 3])
def test_the_best_step_survives_kills(
    run: Run, finished: Callable[..., Path], tmp_path: Path, killed_after: int
) -> None:
    changes = {"keep_best": "colourfulness", "keep": 1}
    run = changed(run, **changes)
    whole = finished(**changes)
    until(align(run, tmp_path), killed_after)
    list(align(run, tmp_path))
    assert (tmp_path / "best.json").read_bytes() == (whole / "best.json").read_bytes()
    assert files(tmp_path, "checkpoints") == files(whole, "checkpoints")


def test_a_best_step_needs_a_judge_that_is_there_and_images() -> None:
    with pytest.raises(UserError, match=r"keep_best beauty: no such judge \(known: pickscore"):
        Watching(prompts=("a",), keep_best="beauty")
    with pytest.raises(UserError, match="keep_best: there is nothing to judge"):
        Watching(keep_best="aesthetic")
