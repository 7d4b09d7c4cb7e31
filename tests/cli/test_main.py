"""Every bad input is one line and exit code 2."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors import SafetensorError

from contrapose.cli.main import main

Capture = pytest.CaptureFixture[str]
Told = Callable[..., str]


@pytest.fixture
def told(capsys: Capture) -> Told:
    """Run a command line that must fail, and return the one line it told."""

    def run(*arguments: object) -> str:
        assert main([str(a) for a in arguments]) == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
        assert len(lines) == 1, lines
        assert lines[0].startswith("contrapose: ")
        return lines[0]

    return run


@pytest.mark.parametrize(
    ("arguments", "naming"),
    [
        (["trian"], "trian: no such command (known: quickstart"),
        (["pairs"], "known: pairs draw, pairs real"),
        (["pairs", "bake"], "known: pairs draw, pairs real"),
        (["align"], "align needs a method"),
        (["align", "dpso"], "dpso: no such method or recipe (methods: ddspo"),
        (["align", "ddspo", "--link", "tanh"], "--link tanh: not known (choose from sigmoid"),
        (["align", "ddspo", "--link"], "--link"),
        (["align", "nowhere.yaml"], "nowhere.yaml: no such file"),
        (["pairs", "draw", "--degrade=blur"], "--degrade blur: not known"),
        (
            ["pairs", "draw", "--degrade", "llm-alignment", "--degrade.max-new-tokens", "3"],
            "--degrade.max-new-tokens is now --degrade.llm.max-new-tokens",
        ),
    ],
)
def test_wrong_names(told: Told, arguments: list[str], naming: str) -> None:
    assert naming in told(*arguments)


@pytest.mark.parametrize(
    ("arguments", "naming"),
    [
        (["--bogus", "3"], "--model, --pairs, --out must be given; Unrecognized options: --bogus 3;"),
        (["--train-steps", "many", "--model", "m", "--pairs", "p", "--out", "o"], "--train-steps: invalid literal"),
        (["--precision", "fp64"], "invalid choice 'fp64' for argument '--precision'"),
        (["--model"], "Missing value for argument '--model'"),
        ([], "--model, --pairs, --out must be given;"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_wrong_options(told: Told, monkeypatch, arguments: list[str], naming: str, encoding: str) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding))  # which decides on tyro's frames
    message = told("align", "sft", *arguments)
    assert naming in message
    assert message.endswith("'contrapose align sft --help' explains every option")
    assert "Folder that receives" not in message


def test_help_is_help(capsys: Capture) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["align", "sft", "--help"])
    assert stopped.value.code == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) < 200


def test_bytes_that_are_no_text_are_refused(told: Told) -> None:
    assert "is not UTF-8" in told("report", "--out", "a\udc80")


@pytest.mark.parametrize("number", [30, 36, 40, 5, 13, 17, 20, 21])
def test_any_error_of_the_file_system_is_one_line(told: Told, monkeypatch, number: int) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number), "/some/where")

    monkeypatch.setattr("contrapose.cli.main.run", fail)
    assert f"/some/where: {os.strerror(number).lower()}" in told("report")


@pytest.mark.parametrize(
    "work",
    [
        lambda: bytearray(2**62),
        lambda: torch.empty(2**60, dtype=torch.uint8),
        lambda: torch.cuda.OutOfMemoryError("CUDA out of memory.\nTried to allocate 20.00 GiB."),
    ],
)
def test_memory_that_runs_out_is_one_line(told: Told, monkeypatch, work) -> None:
    def fail(*_: object) -> None:
        raise work()

    monkeypatch.setattr("contrapose.cli.main.run", fail)
    assert "out of memory; close what else uses it" in told("sample")


def test_every_process_tells_that_the_disk_is_full(monkeypatch, capsys: Capture) -> None:
    """As in a kept step of networks in shards: a launcher may end the first process before it has told of it."""

    def fail(*_: object) -> None:
        raise SafetensorError("I/O error: No space left on device (28)")

    monkeypatch.setattr("contrapose.cli.main.run", fail)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, beginning in (("0", "contrapose: "), ("1", "contrapose: process 1: ")):
        monkeypatch.setenv("RANK", rank)
        assert main(["align"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(beginning) and "the disk is full; free some space and run the same command again" in line


@pytest.mark.parametrize(("error", "told"), [(OSError(28, "No space"), False), (ValueError("ours"), True)])
def test_a_thread_that_the_full_disk_ended_is_not_told_of(monkeypatch, capsys: Capture, error, told: bool) -> None:
    def fail() -> None:
        raise error

    def run(_: object) -> None:
        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()

    monkeypatch.setattr("contrapose.cli.main.run", run)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)  # to be put back
    assert main(["report"]) == 0
    assert ("Traceback" in capsys.readouterr().err) == told


@pytest.mark.parametrize("arguments", [["--help"], ["toy", "--help"]])
def test_a_closed_pipe_is_silent(arguments: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)  # nobody reads what it says
    script = f"import sys; from contrapose.cli.main import main; sys.exit(main({arguments}))"
    with os.fdopen(writing, "wb") as pipe:
        ended = subprocess.run([sys.executable, "-c", script], stdout=pipe, stderr=subprocess.PIPE, check=False)
    assert (ended.returncode, ended.stderr) == (141, b"")


@pytest.mark.parametrize("command", [["pairs", "label"], ["merge"]], ids=" ".join)
@pytest.mark.parametrize("rank", ["0", "1"])
def test_several_processes_of_a_command_that_shares_no_work_are_refused(
    monkeypatch, capsys: Capture, command: list[str], rank: str
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", rank)
    assert main([*command, "draw"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == (1 if rank == "0" else 0)  # once, not once a process
    assert all("2 processes" in line for line in lines)


@pytest.mark.parametrize(
    ("command", "instead"), [("align", "one torchrun a machine"), ("study run", "srun --ntasks 1")]
)
def test_tasks_that_srun_alone_started_are_told_once(monkeypatch, capsys: Capture, command: str, instead: str) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "8")
    monkeypatch.setenv("SLURM_PROCID", "0")
    assert main([*command.split(), "--out", "out"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "8 tasks" in line and instead in line and "env -u SLURM_PROCID" in line
    monkeypatch.setenv("SLURM_PROCID", "3")
    with pytest.raises(SystemExit, match="2"):
        main([*command.split(), "--out", "out"])
    assert capsys.readouterr().err == ""
    monkeypatch.delenv("SLURM_PROCID")  # or a launcher that speaks for itself
    assert main([*command.split(), "--out", "out"]) == 2
    assert "tasks" not in capsys.readouterr().err


# Bad prompts


PROMPTS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "holds no prompts"),
    "blank lines": (b"\n \n\t\n", "holds no prompts"),
    "one word each": (b"cat\ndog\n", "none of its 2 prompts could be degraded"),
    "NUL": (b"a red circle\na blue\0 square\n", "line 2"),
    "not UTF-8": (b"a red circle\n\xff\xfea blue square\n", "line 2"),
}


@pytest.mark.parametrize("name", PROMPTS)
def test_bad_prompts(told: Told, tiny_model: Path, tmp_path: Path, name: str) -> None:
    data, naming = PROMPTS[name]
    (tmp_path / "prompts.txt").write_bytes(data)
    line = told(
        "pairs", "draw", "--model", tiny_model, "--prompts", tmp_path / "prompts.txt", "--out", tmp_path / "out"
    )
    assert "prompts.txt" in line
    assert naming in line
    assert not (tmp_path / "out").exists(), "nothing is left behind that a mended run would stumble over"


def test_missing_prompts(told: Told, tiny_model: Path, tmp_path: Path) -> None:
    line = told("sample", "--model", tiny_model, "--prompts", tmp_path / "none.txt", "--out", tmp_path / "out")
    assert "none.txt: no such file" in line


# Bad models, pairs and runs


def test_model_with_a_part_missing(told: Told, tiny_model: Path, prompts_file: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(tiny_model, tmp_path / "model")
    shutil.rmtree(broken / "vae")
    for command in (["pairs", "draw"], ["sample"]):
        line = told(*command, "--model", broken, "--prompts", prompts_file, "--out", tmp_path / "out")
        assert "its part vae/ is missing" in line


def _align(model: Path, pairs: Path, out: Path, *more: object) -> list[object]:
    return [
        "align",
        "sft",
        "--model",
        model,
        "--pairs",
        pairs,
        "--out",
        out,
        "--batch-size",
        2,
        "--micro-batch",
        2,
        *more,
    ]


def test_pairs_of_another_model(told: Told, tiny_v_model: Path, tiny_pairs: Path, tmp_path: Path) -> None:
    line = told(*_align(tiny_v_model, tiny_pairs, tmp_path / "out"))
    assert "drawn with another model" in line
    assert "--foreign-pairs" in line


def test_truncated_shard(told: Told, tiny_model: Path, tiny_pairs: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(tiny_pairs, tmp_path / "pairs")
    shard = broken / "shard-00001.safetensors"
    shard.write_bytes(shard.read_bytes()[:-100])
    for arguments in (_align(tiny_model, broken, tmp_path / "out"), ["pairs", "check", broken]):
        assert "shard-00001.safetensors: truncated or broken" in told(*arguments)


def test_no_pairs(told: Told, tiny_model: Path, tmp_path: Path) -> None:
    assert "no pairs.yaml" in told(*_align(tiny_model, tmp_path, tmp_path / "out"))


def test_unfinished_run(told: Told, tiny_model: Path, prompts_file: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    command = ["sample", "--model", tiny_model, "--prompts", prompts_file, "--out", tmp_path / "out", "--adapter"]
    assert "has the run finished?" in told(*command, tmp_path / "run")


def test_a_file_where_a_folder_is_needed(told: Told, tiny_model: Path, tiny_pairs: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("not a folder")
    assert str(tmp_path / "out") in told(*_align(tiny_model, tiny_pairs, tmp_path / "out"))


# Bad settings


def test_unused_option(told: Told, tiny_model: Path, tiny_pairs: Path, tmp_path: Path) -> None:
    line = told(*_align(tiny_model, tiny_pairs, tmp_path / "out", "--full", "--lora-alpha", 3))
    assert "lora_alpha: unused with full fine-tuning" in line


def test_batch_that_does_not_divide(told: Told, tiny_model: Path, tiny_pairs: Path, tmp_path: Path) -> None:
    line = told(*_align(tiny_model, tiny_pairs, tmp_path / "out", "--batch-size", 5))
    assert "batch_size 5 must be a multiple of micro_batch 2; set micro_batch to 1" in line


@pytest.mark.parametrize(
    ("change", "naming"),
    [
        ({"learning_rate": 3}, "learning_rate belongs under optimisation"),
        ({"method": {"name": "sft", "beta": 3.0}}, "unknown setting beta"),
        ({"optimisation": {"steps": 3}}, "steps is now train_steps"),
        ({"text_length": 30, "betta": 3}, "text_length belongs under loading; unknown setting betta"),
        ({"method": {"name": "dpso"}}, "dpso"),
        ({"optimisation": {"train_steps": "many"}}, "optimisation.train_steps"),
        ({"full": True, "lora_alpha": 3.0}, "lora_alpha: unused with full fine-tuning"),
    ],
)
def test_bad_run_file(told: Told, tmp_path: Path, change: dict[str, Any], naming: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({"model": "m", "pairs": "p", "method": {"name": "sft"}} | change))
    line = told("align", path, "--out", tmp_path / "out")
    assert f"{path}: " in line
    assert naming in line


# Interruptions


def test_stopped_by_hand(capsys: Capture, monkeypatch: pytest.MonkeyPatch, tiny_model: Path, tiny_pairs: Path) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("contrapose.train.align.align_stage", stop)
    assert main([str(a) for a in _align(tiny_model, tiny_pairs, Path("out"))]) == 130
    assert "the same command carries on from here" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device", "a file"), OSError(122, "Disk quota exceeded")]
)
def test_full_disk_anywhere(
    told: Told, monkeypatch: pytest.MonkeyPatch, tiny_model: Path, tiny_pairs: Path, error: OSError
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("contrapose.train.align.align_stage", fail)
    assert "the disk is full" in told(*_align(tiny_model, tiny_pairs, Path("out")))


def test_a_bug_is_not_hidden(monkeypatch: pytest.MonkeyPatch, tiny_model: Path, tiny_pairs: Path) -> None:
    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("contrapose.train.align.align_stage", fail)
    with pytest.raises(OSError, match="Input/output"):
        main([str(a) for a in _align(tiny_model, tiny_pairs, Path("out"))])
