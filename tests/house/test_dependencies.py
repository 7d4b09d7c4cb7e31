"""Every dependency has its reason, and what the field's environments break on is not among them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UNWANTED = {"torchvision", "torch-fidelity", "clean-fid", "open-clip", "open-clip-torch", "timm"}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def listed_in_pyproject() -> dict[str, set[str]]:
    """Names by kind; read with a regular expression, as Python 3.10 has no TOML reader."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    _, _, extras = text.partition("[project.optional-dependencies]\n")
    lists = dict(re.findall(r"^([\w-]+) = \[(.*?)\]$", extras.partition("\n[project")[0], re.MULTILINE | re.DOTALL))
    runtime = re.search(r"^dependencies = \[(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    assert runtime
    kinds = {"runtime": runtime[1], "development": lists.pop("dev"), "extras": "".join(lists.values())}
    return {kind: {normal(name) for name in re.findall(r'"([\w.-]+)', block)} for kind, block in kinds.items()}


def listed_in_document() -> dict[str, dict[str, str]]:
    """Reasons by kind and name, from the tables under `## Runtime`, `## Development` and `## Extras`."""
    text = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    _, *parts = re.split(r"^## (\w+).*$", text, flags=re.MULTILINE)
    sections = dict(zip(map(str.lower, parts[::2]), parts[1::2], strict=True))
    row = re.compile(r"^\| `([^`]+)` \| (.*) \|$", re.MULTILINE)
    return {kind: {normal(n): reason for n, reason in row.findall(sections[kind])} for kind in listed_in_pyproject()}


@pytest.mark.parametrize("kind", ["runtime", "development", "extras"])
def test_every_dependency_has_a_reason_and_every_reason_a_dependency(kind):
    asked, explained = listed_in_pyproject()[kind], listed_in_document()[kind]
    assert asked and asked == set(explained)
    assert all(len(reason.split()) >= 4 for reason in explained.values())


def test_unwanted_packages_are_in_neither_list():
    for names in (*listed_in_pyproject().values(), *listed_in_document().values()):
        assert not UNWANTED & set(names)


def imported(body: list[ast.stmt]) -> Iterator[str]:
    """Packages that a module imports as it runs, not those for type checkers alone."""
    for node in body:
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield (node.module or "").partition(".")[0]
        for block in ("body", "orelse", "handlers", "finalbody"):
            yield from imported(getattr(node, block, []))


def test_sources_run_without_what_developers_need():
    development = {name.replace("-", "_") for name in listed_in_pyproject()["development"]}
    for path in (ROOT / "src").rglob("*.py"):
        assert not set(imported(ast.parse(path.read_text(encoding="utf-8")).body)) & development, path


def test_an_import_for_type_checkers_alone_is_none():
    source = """
if TYPE_CHECKING:
    import a
def f():
    import b.c
try:
    from d import e
except E:
    import g
"""
    assert set(imported(ast.parse(source).body)) == {"b", "d", "g"}


def test_the_container_is_made_of_files_that_are_there_and_of_what_pyproject_names() -> None:
    container = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    copied = {name for line in re.findall(r"^COPY (.+)$", container, re.MULTILINE) for name in line.split()[:-1]}
    assert [name for name in copied if not (ROOT / name).exists()] == []
    assert not copied & set((ROOT / ".dockerignore").read_text(encoding="utf-8").split())
    readme = re.findall(r'^readme = "(.+)"$', pyproject, re.MULTILINE)
    licences = re.findall(r'^license-files = \["(.+)"\]$', pyproject, re.MULTILINE)
    [wheel] = re.findall(r"^\[tool\.hatch\.build\.targets\.wheel\.force-include\]((?:\n.+)+)", pyproject, re.MULTILINE)
    packed = re.findall(r"^(\w+) = ", wheel, re.MULTILINE)
    assert packed and copied >= {"pyproject.toml", "src", *packed, *readme, *licences}, "what a build reads"
    [extras] = re.findall(r'pip install .*"\.\[(.+)\]"', container)
    assert all(f"\n{extra} = [" in pyproject for extra in extras.split(","))
    [torch] = re.findall(r'"(torch.*?)"', container)
    assert f'"{torch}"' in pyproject
    assert re.search(r'^ENTRYPOINT \["contrapose"\]$', container, re.MULTILINE)
    assert "\n[project.scripts]\ncontrapose = " in pyproject
