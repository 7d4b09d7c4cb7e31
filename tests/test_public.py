"""The public names: found when they are used, known to editors, and none hidden by a folder of the same name."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import contrapose

ROOT = Path(__file__).parents[1]


def typed_names(source: str) -> dict[str, str]:
    """The names that are imported for type checkers alone, each with the module that it is said to live in."""
    blocks = [node for node in ast.parse(source).body if isinstance(node, ast.If)]
    imports = [node for block in blocks for node in block.body if isinstance(node, ast.ImportFrom)]
    return {alias.asname or "": f"{node.module}:{alias.name}" for node in imports for alias in node.names}


def test_editors_know_what_is_public() -> None:
    typed = typed_names(Path(contrapose.__file__).read_text(encoding="utf-8"))
    assert typed == {name: f"contrapose.{home}:{name}" for name, home in contrapose._HOMES.items()}
    assert Path(contrapose.__file__).with_name("py.typed").exists()


@pytest.mark.parametrize("name", contrapose.__all__)
def test_a_public_name_is_there(name: str) -> None:
    assert getattr(contrapose, name).__name__ == name
    assert getattr(contrapose, name).__doc__


def test_no_folder_hides_a_public_name() -> None:
    rooms = {path.name for path in Path(contrapose.__file__).parent.iterdir() if path.is_dir()}
    assert rooms.isdisjoint(contrapose.__all__)


def test_an_unknown_name_is_none() -> None:
    with pytest.raises(AttributeError, match="aligned"):
        contrapose.aligned  # noqa: B018


@pytest.mark.parametrize("module", ["contrapose", "contrapose.cli.main"])
def test_it_runs_as_a_module(module: str) -> None:
    ended = subprocess.run([sys.executable, "-m", module, "--version"], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout.strip()) == (0, contrapose.__version__)
