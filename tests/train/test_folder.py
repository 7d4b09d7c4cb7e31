"""A run's folder is never mixed: not with other inputs of the same name, not with what a disk or a hand broke."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from contrapose.errors import UserError
from contrapose.files import one_writer
from contrapose.methods import DDSPO
from contrapose.train.align import align
from contrapose.train.folder import FolderSeen, agreed, check_seen
from contrapose.train.settings import Optimisation, Run, Watching

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("few_levels")]

FAST = Optimisation(learning_rate=1e-3, train_steps=4, batch_size=4, micro_batch=4)
WATCH = Watching(holdout=2, evaluate_every=2, save_every=1)


def run_of_copies(model: Path, pairs: Path, folder: Path) -> Run:
    """A run whose inputs are copies in a folder."""
    model = shutil.copytree(model, folder / "model")
    pairs = shutil.copytree(pairs, folder / "pairs")
    return Run(str(model), pairs, DDSPO(beta=200.0), optimisation=FAST, watching=WATCH)


@pytest.fixture
def run(tiny_model: Path, tiny_pairs: Path, tmp_path: Path) -> Run:
    """A run of copies, which tests may change."""
    return run_of_copies(tiny_model, tiny_pairs, tmp_path)


def until(run: Run, out: Path, step: int) -> None:
    """As a kill just after this step."""
    states = align(run, out)
    for state in states:
        if state.step == step:
            break
    states.close()


@pytest.fixture(scope="module")
def trained(tiny_model: Path, tiny_pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run from elsewhere, trained once: `whole` to its end, `cut` as a kill left it after step 3."""
    folder = tmp_path_factory.mktemp("trained")
    run = run_of_copies(tiny_model, tiny_pairs, folder)
    list(align(run, folder / "whole"))
    until(run, folder / "cut", 3)
    return folder


@pytest.fixture
def whole(trained: Path) -> Path:
    """The run to its end, shared by all tests: look at it, and leave it as it is."""
    return trained / "whole"


@pytest.fixture
def cut(trained: Path, tmp_path: Path) -> Path:
    """A copy of the run that was killed after step 3, which tests may change."""
    return shutil.copytree(trained / "cut", tmp_path / "out")


@pytest.fixture
def finished(whole: Path, tmp_path: Path) -> Path:
    """A copy of the run to its end, which tests may change."""
    return shutil.copytree(whole, tmp_path / "out")


def scaled(path: Path, factor: float) -> None:
    save_file({name: value * factor for name, value in load_file(path).items()}, path)


def weights(out: Path) -> bytes:
    tensors = load_file(out / "pytorch_lora_weights.safetensors")
    return b"".join(tensors[name].numpy().tobytes() for name in sorted(tensors))


def metrics(out: Path) -> list[tuple[int, float]]:
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return [(line["step"], line["loss"]) for line in map(json.loads, lines)]


# What is named


def other_pairs(run: Run) -> None:
    shard = next(iter(Path(run.pairs).glob("shard-*")))
    content = bytearray(shard.read_bytes())
    content[-2] ^= 1
    shard.write_bytes(content)


def other_model(run: Run) -> None:
    file = Path(run.model) / "vae/config.json"
    file.write_text(file.read_text().replace('"scaling_factor": ', '"scaling_factor": 1'))


@pytest.mark.parametrize(("change", "named"), [(other_pairs, "pairs"), (other_model, "model")])
@pytest.mark.parametrize("step", [2, 4])
def test_other_content_under_the_same_name_is_refused(
    run: Run, tmp_path: Path, change: Callable[[Run], None], named: str, step: int
) -> None:
    until(run, tmp_path / "out", step)
    change(run)
    with pytest.raises(UserError, match=f"made from another content of {named}; choose another --out"):
        next(align(run, tmp_path / "out"))


def test_the_same_content_elsewhere_is_the_same_run(
    run: Run, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    until(run, tmp_path / "out", 2)
    shutil.move(run.pairs, tmp_path / "moved")
    shutil.move(run.model, tmp_path / "model2")
    monkeypatch.chdir(tmp_path)
    states = list(align(replace(run, pairs=Path("moved"), model="./model2"), Path("out")))
    assert [state.step for state in states] == [2, 3, 4]
    assert weights(tmp_path / "out") == weights(whole)


def test_a_start_that_was_trained_again_is_refused(run: Run, tmp_path: Path) -> None:
    list(align(run, tmp_path / "first"))
    second = replace(run, start=tmp_path / "first")
    until(second, tmp_path / "out", 2)
    shutil.rmtree(tmp_path / "first")
    list(align(replace(run, seed=5), tmp_path / "first"))
    with pytest.raises(UserError, match="another content of start"):
        next(align(second, tmp_path / "out"))


# Who writes


def test_a_folder_that_another_writes_is_refused(run: Run, tmp_path: Path) -> None:
    with one_writer(tmp_path / "out"), pytest.raises(UserError, match="is writing here"):
        next(align(run, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


# Checkpoints


@pytest.mark.parametrize("content", [b"", b"text", None], ids=["empty", "text", "cut"])
@pytest.mark.parametrize("file", ["training.safetensors", "pytorch_lora_weights.safetensors"])
@pytest.mark.parametrize("broken", [1, 2])
def test_a_broken_checkpoint_gives_way_to_the_one_before(
    run: Run, whole: Path, cut: Path, caplog: pytest.LogCaptureFixture, content: bytes | None, file: str, broken: int
) -> None:
    latest = sorted((cut / "checkpoints").iterdir())[-broken:]
    for path in (step / file for step in latest):
        path.write_bytes(path.read_bytes()[:5000] if content is None else content)
    with caplog.at_level(logging.WARNING):
        states = list(align(run, cut))
    assert states[0].step == (2 if broken == 1 else 0)
    assert [record for record in caplog.records if "carrying on from the one before it" in record.message]
    assert weights(cut) == weights(whole)
    assert metrics(cut) == metrics(whole)


@pytest.mark.parametrize("name", ["step-000003", "step-1000000000"])
def test_a_checkpoint_of_another_step_than_its_name_is_passed_over(run: Run, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    until(run, out, 2)
    (out / "checkpoints/step-000002").rename(out / "checkpoints" / name)
    assert next(align(run, out)).step == 1


def test_a_checkpoint_with_the_weights_of_another_is_passed_over(run: Run, cut: Path) -> None:
    name = "pytorch_lora_weights.safetensors"
    shutil.copy(cut / "checkpoints/step-000002" / name, cut / "checkpoints/step-000003" / name)
    assert next(align(run, cut)).step == 2


def test_checkpoints_of_an_older_version_are_refused(run: Run, tmp_path: Path) -> None:
    """They were one file each."""
    out = tmp_path / "out"
    until(run, out, 2)
    for step in (out / "checkpoints").iterdir():
        shutil.move(step / "training.safetensors", step.with_suffix(".safetensors"))
        shutil.rmtree(step)
    with pytest.raises(UserError, match=r"are of an older Contrapose .* delete .*checkpoints to train from"):
        next(align(run, out))
    shutil.rmtree(out / "checkpoints")
    assert next(align(run, out)).step == 0


# Metrics and results


@pytest.mark.parametrize("line", ['{"loss": 1}', "null", "[1]", '{"step": "x"}', "\udcff", "[" * 5000], ids=ascii)
def test_a_broken_line_of_metrics_is_named(run: Run, cut: Path, line: str) -> None:
    path = cut / "metrics.jsonl"
    first, *rest = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([first, line.encode("utf-8", "surrogateescape"), b"\n", *rest]))
    with pytest.raises(UserError, match=r"metrics\.jsonl: line 2: .*remove the line") as caught:
        list(align(run, cut))
    assert "\n" not in str(caught.value)


def test_a_line_that_a_kill_cut_short_is_forgotten(run: Run, whole: Path, cut: Path) -> None:
    with (cut / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    list(align(run, cut))
    assert metrics(cut) == metrics(whole)


@pytest.mark.parametrize("broken", ["pytorch_lora_weights.safetensors", "finished.json"])
@pytest.mark.parametrize("content", [None, b"", b"{"], ids=["gone", "empty", "cut"])
def test_results_that_were_lost_are_made_again(run: Run, finished: Path, broken: str, content: bytes | None) -> None:
    before = weights(finished)
    if content is None:
        (finished / broken).unlink()
    else:
        (finished / broken).write_bytes(content)
    assert [state.step for state in align(run, finished)] == [4]
    assert weights(finished) == before
    assert json.loads((finished / "finished.json").read_text())["steps"] == 4


def test_a_finished_run_is_left_as_it_is(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    list(align(run, out))
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert [state.step for state in align(run, out)] == [4]
    after = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert after == before


def test_processes_that_see_different_folders_do_not_go_on(tmp_path: Path) -> None:
    check_seen(tmp_path, [[2, 4], [2, 4]])
    with pytest.raises(UserError, match=f"{tmp_path}: processes see different kept steps .the newest are 4, 0, 4"):
        check_seen(tmp_path, [[2, 4], [], [2, 4]])


def test_a_process_goes_by_what_the_first_one_sees(
    tiny_model: Path, tiny_pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own folder is still empty, as where another machine's file system shows late what was written."""
    run = Run(str(tiny_model), tiny_pairs, DDSPO(beta=200.0), optimisation=FAST)
    seen: list[FolderSeen] = []

    def of_all(mine: FolderSeen) -> list[FolderSeen]:
        seen.append(mine)
        return [FolderSeen(has_begun=True, is_over=True, precision=mine.precision), mine]

    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr("contrapose.train.align.of_all", of_all)
    assert [state.step for state in align(run, tmp_path / "out")] == [4]
    assert seen == [FolderSeen(has_begun=False, is_over=False, precision="fp32")]
    with pytest.raises(UserError, match=r"in different precisions \(bf16, fp32\); set --precision"):
        agreed(tmp_path, [FolderSeen(True, False, "bf16"), *seen])


def test_what_a_process_alone_lacks_here_the_others_are_told(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str | None] = []

    def of_all(reason: str | None) -> list[str | None]:
        told.append(reason)
        return [reason]

    monkeypatch.setattr("contrapose.processes.of_all", of_all)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UserError, match="precision fp16 needs a GPU"):
        list(align(replace(run, precision="fp16"), tmp_path / "out"))
    assert told[-1] == "precision fp16 needs a GPU; use bf16 or fp32 here"
