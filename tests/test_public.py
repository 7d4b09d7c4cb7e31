"""The public names: found when they are used, known to editors, and none hidden by a folder of the same name."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

import contrapose
from contrapose.backbones.kinds import ADAPTER_KINDS
from contrapose.core.guards import GUARDS
from contrapose.core.guidance import GUIDANCES
from contrapose.core.links import LINKS
from contrapose.degrade.degraders import DEGRADERS
from contrapose.evaluate.sets.extractors import FEATURES
from contrapose.judges.table import JUDGES
from contrapose.methods import METHODS
from contrapose.photographs.filters import FILTERS
from contrapose.photographs.spoil import SPOILERS
from contrapose.worlds.suites import OF_SWEEPS, SUITES

REGISTRIES: dict[str, Mapping[str, type]] = {
    "kinds of adapters": ADAPTER_KINDS, "guidances": GUIDANCES, "links": LINKS, "guards": GUARDS,
    "degraders": DEGRADERS, "features": FEATURES, "judges": JUDGES, "methods": METHODS, "filters": FILTERS,
    "spoilers": SPOILERS, "suites": SUITES, "suites of sweeps": OF_SWEEPS,
}  # fmt: skip
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


@pytest.mark.parametrize("registry", REGISTRIES)
def test_what_a_flag_chooses_by_name_is_public(registry: str) -> None:
    hidden = [entry.__name__ for entry in REGISTRIES[registry].values() if entry.__name__ not in contrapose.__all__]
    assert hidden == []


def test_no_folder_hides_a_public_name() -> None:
    rooms = {path.name for path in Path(contrapose.__file__).parent.iterdir() if path.is_dir()}
    assert rooms.isdisjoint(contrapose.__all__)


def test_an_unknown_name_is_none() -> None:
    with pytest.raises(AttributeError, match="aligned"):
        contrapose.aligned  # noqa: B018


def test_a_first_use_prints_nothing_and_leaves_the_libraries_as_they_come() -> None:
    program = """
import os
import contrapose
contrapose.load_backbone
import transformers.utils.logging as of_transformers
assert of_transformers.get_verbosity() == of_transformers.WARNING
assert "TRANSFORMERS_VERBOSITY" not in os.environ
"""
    environment = {name: value for name, value in os.environ.items() if name != "TRANSFORMERS_VERBOSITY"}
    command = [sys.executable, "-c", program]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


@pytest.mark.parametrize("module", ["contrapose", "contrapose.cli.main"])
def test_it_runs_as_a_module(module: str) -> None:
    ended = subprocess.run([sys.executable, "-m", module, "--version"], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout.strip()) == (0, contrapose.__version__)
