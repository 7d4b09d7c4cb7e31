"""The help: a text for every flag, every choice by its name, every flag that the documents name."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from declared import read_into, spellings

from contrapose.cli.leaf import Leaf
from contrapose.cli.main import COMMANDS, main
from contrapose.cli.options import flags_of
from contrapose.methods import METHODS

ROOT = Path(__file__).parents[2]
# the benchmarks are programs of their own
PAGES = [
    ROOT / "README.md",
    *(page for page in sorted((ROOT / "docs").glob("*.md")) if page.name != "benchmarks.md"),
    *sorted((ROOT / "recipes").glob("*")),
]
FLAG = re.compile(r"(?<![\w-])--([a-z0-9][a-z0-9.-]*[a-z0-9])")
PROSE = re.compile(r"Differs from|authors' code:|\bself\.\w|TODO")
# Flags of other programs, which the documents name too.
FOREIGN = {"max-restarts", "help", "version", "scale_lr", "include", "exclude", "local-dir", "no-deps"}
FOREIGN |= {
    "nproc-per-node",
    "nnodes",
    "rdzv-id",
    "rdzv-backend",
    "rdzv-endpoint",
    "multi-gpu",
    "num-processes",
}  # of launchers
FOREIGN |= {"nodes", "ntasks", "ntasks-per-node", "gpus-per-node", "array", "gpus"}  # of SLURM
FOREIGN |= {"head"}  # of Ray
FOREIGN |= {"sort"}  # of tar
FOREIGN |= {"published", "repeats", "tables", "precisions"}  # of benchmarks
FOREIGN |= {"no"}  # what a switch's name is put behind


@cache
def flags(command: str) -> list[Leaf]:
    """The flags of all the ways to type a command."""
    found = []
    for arguments in spellings(command):
        cls, rest, template, unions = read_into(arguments)
        found += flags_of(cls, rest, "x", template, unions)[1]
    return found


@pytest.mark.parametrize("command", COMMANDS)
def test_every_flag_has_a_text_for_users(command: str) -> None:
    assert sorted({f"{leaf.owner.__name__}.{leaf.name}" for leaf in flags(command) if not leaf.help}) == []
    assert [leaf.flag for leaf in flags(command) if PROSE.search(leaf.help)] == []


@pytest.mark.parametrize(
    ("arguments", "choices"),
    [
        (["pairs", "draw"], "--degrade {words,swap,"),
        (["pairs", "score"], "--judges [{pickscore,"),
        (["align", "ddspo"], "--link {sigmoid,ipo,hinge"),
        (["pairs", "real"], "--spoil {inpaint,redraw,"),
        (["pairs", "real"], "--filters [{size,caption-length,"),
        (["pairs", "real"], "--captioner "),
        (["sample"], "--guidance {pgd,cpgd,npo,chats}"),
        (["sample"], "--negative "),
        (["sweep"], "--compare "),
        (["play"], "--guidance {pgd,cpgd,npo,chats}"),
        (["evaluate"], "--suite {shapes,geneval,compbench,questions,scores"),
        (["evaluate", "--suite", "scores"], "--judges [{pickscore,"),
    ],
    ids=" ".join,
)
def test_what_can_be_chosen_stands_in_the_help(
    arguments: list[str], choices: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    with pytest.raises(SystemExit):
        main([*arguments, "--help"])
    assert choices in capsys.readouterr().out


def test_align_tells_what_each_method_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["align", "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in METHODS:
        (line,) = [line for line in lines if line.split()[:1] == [name]]
        assert len(line.split()) > 4


def test_help_of_the_first_of_two_words_names_its_commands_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pairs", "--help"]) == 0
    text = capsys.readouterr().out
    assert [name for name in COMMANDS if f"  {name} " in text] == [
        name for name in COMMANDS if name.startswith("pairs ")
    ]


def _named(page: Path) -> Iterator[str]:
    """The flags that a page names, or the texts of a module."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".py":
        constants = [node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant)]
        text = "\n".join(str(value) for value in constants).replace("var(--", "")  # CSS
    for match in FLAG.finditer(text):
        yield match[1]


def test_every_flag_of_documents_and_messages_is_one() -> None:
    known = {leaf.flag for command in COMMANDS for leaf in flags(command)} | FOREIGN
    known |= {flag.partition(".")[0] for flag in known} | {f"no-{flag}" for flag in known}
    pages = [page for page in PAGES if page.is_file()]
    pages += sorted((ROOT / "src").rglob("*.py"))
    assert [f"{page.name}: --{flag}" for page in pages for flag in _named(page) if flag not in known] == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("toy --num-seeds 3", "--num-seeds is now --seeds"),
        ("toy --num-steps=3", "--num-steps is now --train-steps"),
        ("toy --rate 1e-5", "--rate is now --learning-rate"),
        ("shapes pretrain --steps 3", "--steps is now --train-steps"),
        ("shapes pretrain --vae-batch 3", "--vae-batch is now --vae-batch-size"),
        ("merge --base m", "--base is now --model"),
        ("estimate --pairs 9", "--pairs is now --num-pairs"),
        ("shapes photos --num 9", "--num is now --num-photos"),
        ("pairs real --images p", "--images is now --photos"),
        ("pairs import --images p", "--images is now --image-folder"),
        ("pairs export pairs --images png", "--images is now --image-format"),
    ],
)
def test_an_old_flag_tells_the_new_one(line: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["study", "choice"], "FILE, MODEL must be given"),
        (["prompts", "split"], "SOURCE, --out-test must be given"),
    ],
)
def test_what_has_no_flag_is_called_by_its_name(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert said in capsys.readouterr().err
