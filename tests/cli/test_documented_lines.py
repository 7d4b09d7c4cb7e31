"""Every command line that stands in the documents is one that its command reads."""

from __future__ import annotations

import importlib
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from contrapose.cli.main import COMMANDS, find
from contrapose.cli.options import parse
from contrapose.errors import UserError
from contrapose.recipes import settings_file

ROOT = Path(__file__).parents[2]
FOLDERS = ("docs", "recipes", "studies", "examples")
PAGES = sorted([*ROOT.glob("*.md"), *(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md"))])
SETTINGS = sorted(path for folder in ("recipes", "studies") for path in (ROOT / folder).rglob("*.yaml"))
BLOCK = re.compile(r"^ {4}[^\n]*\n|^```(?:bash|sh)?\n.*?^```", re.MULTILINE | re.DOTALL)
OWN = {"pairs real": "pairs-real-sd15.yaml"}  # in place of a user's own file of settings; a run's for other commands
AT_ONCE = ("sweep --compare",)  # reads what is there before its flags
FIRST_WORDS = "|".join(sorted({name.split()[0] for name in COMMANDS}))
CALL = re.compile(rf"\bcontrapose ((?:{FIRST_WORDS})\b.*)")
OPEN = re.compile(r"\.\.\.|[\[\]<>]|\$\(|\bKIND\b")  # something is left to be filled in
END = re.compile(r"\s[&|(] ?.*$|;\s.*$")  # what is no argument any more


def calls(page: Path) -> Iterator[str]:
    """The arguments of each whole call in a page's blocks, or in the comments of a file of settings."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".yaml":
        # calls stand a little to the right of what is said
        text = "".join(f"{line[1:]}\n" for line in text.splitlines() if line.startswith("#  "))
    else:
        text = "".join(block[0] for block in BLOCK.finditer(text)).replace("\\\n", " ")
    text = re.sub(r"\n {4,}(?=--)", " ", text)  # a line that goes on below
    for line in text.splitlines():
        call = CALL.search(re.sub(r"\s# .*", "", line))
        if call and not OPEN.search(call[1]) and not call[1].startswith(AT_ONCE):
            yield re.sub(r"\$\w+", "1", END.sub("", call[1]))


class Stop(Exception):
    """Raised in place of what a command would do."""


def read(arguments: list[str]) -> None:
    """Read a command line as its command does, and do no more; raises `UserError` as it does."""
    command, name, rest = find(arguments)
    if name == "ray":  # which starts the command behind its dashes
        read(rest[rest.index("--") + 1 :])
    module = importlib.import_module(f"contrapose.cli.{command.module}")
    for file in [Path(word) for word in rest if word.endswith(".yaml")]:
        is_recipe = settings_file(str(file)) not in (None, file)
        if not is_recipe and not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / "recipes" / OWN.get(name, "sd15-ddspo.yaml"), file)

    def only_parse(*args: Any, **kwargs: Any) -> None:
        parse(*args, **kwargs)
        raise Stop

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stop):
        patch.setattr(module, "parse", only_parse)
        module.main(rest, name)


LINES = [(page, line) for page in (*PAGES, *SETTINGS) for line in calls(page)]


def test_lines_are_found() -> None:
    pages = {page.name for page, _ in LINES}
    assert len(LINES) > 100 and {"README.md", "one-gpu.md", "many-gpus.md", "sd15-ddspo.yaml", "table-2.yaml"} <= pages


def test_a_line_of_old_flags_is_seen() -> None:
    with pytest.raises(UserError, match="--steps is now --train-steps"):
        read(shlex.split("align sft --model M --pairs pairs/ --steps 300 --out runs/a"))


def test_every_line_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    refused = []
    for page, line in LINES:
        try:
            read(shlex.split(line))
        except UserError as error:
            refused.append(f"{page.relative_to(ROOT)}: contrapose {line}: {error}")
    assert not refused, "\n".join(refused)
