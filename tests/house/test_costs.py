"""What one more thing costs: an entry of a registry is named in its own file and in the registry's file alone.

So a link, method, judge, filter, spoiler or degrader is added by a class and a line. Of families test_families.py says
the same, and tests/exchange adds a format.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pytest

from contrapose.backbones.kinds import ADAPTER_KINDS
from contrapose.core.guards import GUARDS
from contrapose.core.guidance import GUIDANCES
from contrapose.core.links import LINKS
from contrapose.degrade.degraders import DEGRADERS
from contrapose.judges.table import JUDGES
from contrapose.methods import METHODS
from contrapose.photographs.filters import FILTERS
from contrapose.photographs.spoil import SPOILERS

SRC = Path(__file__).parents[2] / "src" / "contrapose"
REGISTRIES: dict[str, tuple[str, Mapping[str, type]]] = {
    "link": ("core/links.py", LINKS),
    "guard": ("core/guards.py", GUARDS),
    "guidance": ("core/guidance.py", GUIDANCES),
    "method": ("methods/__init__.py", METHODS),
    "judge": ("judges/table.py", JUDGES),
    "filter": ("photographs/filters.py", FILTERS),
    "spoiler": ("photographs/spoil/__init__.py", SPOILERS),
    "degrader": ("degrade/degraders.py", DEGRADERS),
    "kind of adapters": ("backbones/kinds.py", ADAPTER_KINDS),
}
# Files that name an entry for another reason than that it is there.
DEFAULTS = {
    "backbones/settings.py",
    "draw/settings.py",
    "guiding/guided.py",
    "guiding/settings.py",
    "photographs/filters.py",  # each filter's judge
    "photographs/settings.py",
}
PUBLIC = {"__init__.py"}
A_FORMAT_OF_THE_SAME_NAME = {"exchange/listings/__init__.py", "exchange/listings/ddspo.py"}
METHODS_THEMSELVES = {f"methods/{path.name}" for path in (SRC / "methods").glob("*.py")}  # their links, their stages
SPECIAL_CASES = {  # these may only become fewer
    "draw/pairs.py",  # degraded prompts that are given are digested with the draw's other inputs
}
MAY_NAME = DEFAULTS | PUBLIC | A_FORMAT_OF_THE_SAME_NAME | METHODS_THEMSELVES | SPECIAL_CASES


@cache
def names(path: Path) -> frozenset[str]:
    """Every name that a file imports or uses."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    imported = {alias.name for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names}
    used = {node.id for node in nodes if isinstance(node, ast.Name)}
    return frozenset(imported | used)


def files_that_name(entry: type) -> set[str]:
    """The files of the package, other than its own, in which a class is named."""
    home = entry.__module__.removeprefix("contrapose.").replace(".", "/") + ".py"
    naming = {str(path.relative_to(SRC)) for path in SRC.rglob("*.py") if entry.__name__ in names(path)}
    return naming - {home}


@pytest.mark.parametrize("kind", REGISTRIES)
def test_an_entry_is_named_where_it_is_and_in_its_registry_alone(kind: str) -> None:
    table, registry = REGISTRIES[kind]
    naming = {name: files_that_name(entry) - {table} - MAY_NAME for name, entry in registry.items()}
    assert {name: files for name, files in naming.items() if files} == {}


def test_no_exception_is_kept_for_longer_than_needed() -> None:
    entries = [entry for _, registry in REGISTRIES.values() for entry in registry.values()]
    named_in = set().union(*(files_that_name(entry) for entry in entries))
    unneeded = MAY_NAME - METHODS_THEMSELVES - named_in
    assert unneeded == set()
