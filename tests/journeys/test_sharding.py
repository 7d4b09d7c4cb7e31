"""Networks in shards over two and three processes: one run with that of a process alone, whatever their number."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Mapping
from pathlib import Path

import pytest
import tiny
import torch
from huggingface_hub import constants
from launched import ACQUAINTED, Ended, Launcher, own_groups
from safetensors.torch import load_file
from torch import Tensor
from trained import content_of, metrics_of

from contrapose.cli.main import main

pytestmark = pytest.mark.slow

# three micro-batches a step, of which one of two processes has two; moments far from 0, so that no rounding grows
SMALL = ["--batch-size", "6", "--micro-batch", "2", "--holdout", "2", "--learning-rate", "1e-3", "--epsilon", "1e-4"]
WATCHED = ["--prompts", "a red circle", "two stars", "a blue square", "--image-steps", "1"]
MOVING = ["diffusion-dpo", "--full", "--reference-decay", "0.5", "--ema-decay", "0.9"]
RUNS = {
    "pairs": ["ddspo", "--lora-kind", "dora", "--lora-dropout", "0.3", "--gradient-checkpointing", "--split-pairs"],
    "averages": [*MOVING, *WATCHED],
    "two trainees": ["chats", "--full", "--shard", "offload"],
    "own groups": ["online-dpo", *own_groups(3)],
    "own states": ["self-npo", "--full", "--shard-over", "1"],
}
DRAWN = ["--rollout-steps", "2", "--rollouts", "5", "--states", "2", "--buffer", "5"]
OTHERS = {
    "pairs in full": ["ddspo", "--full"],
    "two trainees by adapters": ["chats"],
    "own groups in full": ["dgpo", "--full", *own_groups(3)],
    "own states by adapters": ["diffusion-dro", *DRAWN],
    "own states in full": ["diffusion-dro", "--full", *DRAWN],
}
NUMBERS = ("loss", "grad_norm")


def _weights(run: Path) -> dict[str, Tensor]:
    """All that was trained, by file and name."""
    weights: dict[str, Tensor] = {}
    files = [*run.rglob("pytorch_lora_weights.safetensors"), *run.rglob("model/unet/*.safetensors")]
    for file in files:
        place = file.relative_to(run).as_posix()
        weights |= {f"{place} {name}": value for name, value in load_file(file).items()}
    assert weights
    return weights


def _check_close(one: Path, other: Path) -> None:
    """The same files, and the same numbers in them but for rounding, where a step moves a weight by 1e-3."""
    torch.testing.assert_close(_weights(other), _weights(one), rtol=0, atol=1e-5)
    told = _told(other)
    for step, line in _told(one).items():
        assert {name: told[step][name] for name in NUMBERS} == pytest.approx({n: line[n] for n in NUMBERS}, rel=1e-3)


def _told(run: Path) -> dict[float, dict[str, float]]:
    """The lines of a run's metrics by step."""
    return {line["step"]: line for line in metrics_of(run)}


def _check_ended(ended: list[Ended]) -> None:
    assert [process.code for process in ended] == [0] * len(ended), "\n".join(process.err for process in ended)


def _alone(line: list[object], capsys: pytest.CaptureFixture[str]) -> str:
    """What one process of this line writes to its standard error."""
    assert main([str(a) for a in line]) == 0
    return capsys.readouterr().err


def _sharded(runs: Mapping[str, list[str]], model: Path, pairs: Path, out: Path) -> dict[str, list[object]]:
    """The lines of runs whose networks are in shards, each but for its folder's name."""
    where = ["--model", model, "--pairs", pairs, *SMALL, "--train-steps", "2"]
    lines: dict[str, list[object]] = {}
    for name, (method, *options) in runs.items():
        sharded = [] if "--shard" in options else ["--shard", "full"]
        lines[name] = ["align", method, *where, *options, *sharded, "--out", out / name]
    return lines


def _check_one_run(num: int, lines: Mapping[str, list[object]], capsys: pytest.CaptureFixture[str]) -> None:
    """So many processes have been what one is, which is started now."""
    for line in lines.values():
        *options, out = line
        told = _alone([*options, Path(str(out)) / "one"], capsys)
        assert "there is one process, which holds the networks whole" in told
        _check_close(Path(str(out)) / "one", Path(str(out)) / str(num))


def test_sharded_is_one_process(
    launcher: Launcher,
    tiny_model: Path,
    tiny_pairs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines = _sharded(RUNS, tiny_model, tiny_pairs, tmp_path)
    # one file, which the first process alone reads
    file = tiny.save_single_file(tiny_model, tmp_path / "sd.safetensors")
    hub = tiny.save_hub(tiny_model, tmp_path / "hub")
    lines |= _sharded({"one file": ["diffusion-dpo", "--full", "--foreign-pairs"]}, file, tiny_pairs, tmp_path)
    in_bf16 = _sharded({"bf16": ["diffusion-dpo", "--full", "--precision", "bf16"]}, tiny_model, tiny_pairs, tmp_path)
    started = [[*line[:-1], Path(str(line[-1])) / "2"] for line in (lines | in_bf16).values()]
    _check_ended(launcher.start(2, started, HF_HUB_CACHE=str(hub), **ACQUAINTED))
    assert _told(tmp_path / "bf16/2")[1]["drift"] == 0, "trainee and reference round their weights alike"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(hub))
    _check_one_run(2, lines, capsys)


@pytest.mark.exhaustive
@pytest.mark.parametrize("num", [2, 3])
def test_every_kind_of_method_in_full_and_by_adapters(
    launcher: Launcher,
    tiny_model: Path,
    tiny_pairs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    num: int,
) -> None:
    """Those that the test above has over two processes are here over three alone."""
    lines = _sharded(OTHERS if num == 2 else RUNS | OTHERS, tiny_model, tiny_pairs, tmp_path)
    started = [[*line[:-1], Path(str(line[-1])) / str(num)] for line in lines.values()]
    _check_ended(launcher.start(num, started, **ACQUAINTED))
    _check_one_run(num, lines, capsys)


def test_killed_and_gone_on_with_by_another_number(
    launcher: Launcher, tiny_model: Path, tiny_pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Adapters that were not in shards go on in these; a network in full is killed while its third step is kept.

    Before that, one process has no room to keep the second.
    """
    where = ["--model", tiny_model, "--pairs", tiny_pairs, *SMALL, "--save-every", "1"]

    def lines(folder: str, *lora: str) -> list[list[object]]:
        of_lora = ["align", "ddspo", *where, *lora, "--out", tmp_path / folder / "lora"]
        full = ["align", *MOVING, *where, "--train-steps", "4", "--shard", "full", "--out", tmp_path / folder / "full"]
        return [of_lora, full]

    sharded = ["--train-steps", "4", "--shard", "full"]
    ended = launcher.start(2, lines("cut", "--train-steps", "2"), full_keeping=2, **ACQUAINTED)
    assert [process.code for process in ended] == [2, 2]
    assert ["the disk is full" in " ".join(process.err.split()) for process in ended] == [True, True]
    assert "Trace" not in ended[0].err + ended[1].err
    assert [path.name for path in (tmp_path / "cut/full/checkpoints").glob("step-*")] == ["step-000001"]
    ended = launcher.start(2, lines("cut", "--train-steps", "2"), kill_keeping=2, **ACQUAINTED)
    said = " ".join(ended[0].err.split())
    assert ended[0].code == 2 and "contrapose: another process of this run has ended" in said and "Trace" not in said
    assert ended[1].code == -signal.SIGKILL and not (tmp_path / "cut/full/finished.json").exists()
    kept = sorted(path.name for path in (tmp_path / "cut/full/checkpoints").glob("step-*"))
    assert kept == ["step-000001", "step-000002"]
    for folder in ("cut-1", "cut-3"):
        shutil.copytree(tmp_path / "cut", tmp_path / folder)
    _check_ended(launcher.start(2, [*lines("whole", *sharded), *lines("cut", *sharded)], **ACQUAINTED))
    _check_ended(launcher.start(3, lines("cut-3", *sharded), **ACQUAINTED))
    newest = tmp_path / "cut-1/full/checkpoints/step-000002"
    [*_, shard] = sorted((newest / "training").iterdir())
    shard.write_bytes(shard.read_bytes()[:-1] + b"\0")
    told = " ".join("".join(_alone(line, capsys) for line in lines("cut-1", *sharded)).split())
    assert f"{newest / 'training'}: its shards are missing, cut short or not those that were saved" in told
    assert content_of(tmp_path / "cut/full") == content_of(tmp_path / "whole/full")
    for name in ("lora", "full"):
        for folder in ("cut", "cut-1", "cut-3"):
            _check_close(tmp_path / "whole" / name, tmp_path / folder / name)
