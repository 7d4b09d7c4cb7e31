"""Prompts that a model does not read to their end are counted, by every command that draws from a file of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import families
import pytest

from contrapose.backbones.families.table import load_backbone, prompt_reader, reader_of
from contrapose.cli.main import main

LONG = "a red circle above " * 40
FAMILIES = ["sd", "sana"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("command", [["sample", "--num-images", "1"], ["pairs", "draw"]], ids=["sample", "draw"])
def test_how_many_and_where(
    command: list[str],
    family: str,
    tiny_family: Callable[[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model, prompts = tiny_family(family), tmp_path / "prompts.txt"
    prompts.write_text(f"a red circle\n\n{LONG}\ntwo blue squares\n{LONG * 3}\n")
    size = ["--size" if command[0] == "sample" else "--sizes", "32x32"]
    where = ["--model", str(model), "--prompts", str(prompts), "--out", str(tmp_path / "out"), "--steps", "1", *size]
    assert main([*command, *where, "--device", "cpu"]) == 0
    limit = reader_of(load_backbone(model)).limit
    said = [line for line in capsys.readouterr().out.splitlines() if "tokens" in line]
    count = sum(len(prompt_reader(model)([text])) for text in (LONG, LONG * 3))
    assert count >= 1
    first = 3 if count == 2 else 5
    assert said == [
        f"{prompts}: {count} of 4 prompts have more than the {limit} tokens that the text encoder reads, and are cut "
        f"there; the first is line {first}"
    ]


def test_nothing_is_said_of_prompts_that_fit(
    tiny_model: Path, prompts_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--model", str(tiny_model), "--prompts", str(prompts_file), "--out", str(tmp_path / "out")]
    assert main(["sample", *where, "--steps", "1", "--num-images", "1", "--device", "cpu"]) == 0
    assert "tokens" not in capsys.readouterr().out


@pytest.mark.parametrize("name", families.NAMES)
def test_the_loaded_models_reader_is_the_folders(name: str, tiny_family: Callable[[str], Path]) -> None:
    ours, folders = reader_of(load_backbone(tiny_family(name))), prompt_reader(tiny_family(name))
    assert ours.limit == folders.limit
    assert ours.count(LONG) == folders.count(LONG)
