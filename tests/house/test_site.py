"""The documents' site has every page once, leads links rightly, and its page of papers says what the docstrings say."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

import contrapose
from contrapose.cli.commands import COMMANDS

ROOT = Path(__file__).parents[2]


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


site = load(ROOT / "docs" / "site.py")
papers = load(ROOT / "tests" / "house" / "papers.py")


def test_every_page_is_in_the_navigation_once() -> None:
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = re.findall(r"^ *- [\w' ]+: ([\w-]+\.md)$", settings.partition("\nnav:\n")[2], re.MULTILINE)
    there = {page.name for page in (ROOT / "docs").glob("*.md")}
    assert sorted(listed) == sorted({*there, *site.ELSEWHERE, "api.md"})


@pytest.mark.parametrize("source", site.ELSEWHERE.values())
def test_pages_from_elsewhere_are_there(source: str) -> None:
    assert (ROOT / source).is_file()


@pytest.mark.parametrize(
    ("name", "link", "led"),
    [
        ("index.md", "[a](docs/idea.md#beta)", "[a](idea.md#beta)"),
        ("index.md", "![a](docs/toy.png)", "![a](toy.png)"),
        ("index.md", "[a](recipes/README.md)", "[a](recipes.md)"),
        ("idea.md", "[a](../README.md#results)", "[a](index.md#results)"),
        ("idea.md", "[a](choosing.md)", "[a](choosing.md)"),
        ("idea.md", "[`A`](../src/a.py)", "`A`"),
        ("recipes.md", "[a](sd15.yaml)", "a"),
        ("index.md", "[a](#results)", "[a](#results)"),
        ("index.md", "[a](https://arxiv.org)", "[a](https://arxiv.org)"),
    ],
)
def test_links_lead_within_the_site(name: str, link: str, led: str) -> None:
    assert site.with_links(f"before {link} after", name, "") == f"before {led} after"


def test_links_to_sources_lead_to_the_repository_where_it_has_an_address() -> None:
    led = site.with_links("[`A`](../src/a.py)", "idea.md", "https://example.org/contrapose/")
    assert led == "[`A`](https://example.org/contrapose/blob/main/src/a.py)"


def test_code_keeps_what_looks_like_a_link() -> None:
    text = "```python\nx[0](docs/a.md)\n```\n"
    assert site.with_links(text + "[a](docs/a.md)", "index.md", "") == text + "[a](a.md)"


def test_the_page_of_python_names_has_all_of_them() -> None:
    named = re.findall(r"^::: contrapose\.(\w+)$", site.python_page(), re.MULTILINE)
    assert sorted(named) == sorted(contrapose.__all__)


def test_every_command_has_its_names_on_the_page() -> None:
    assert set(site.BY_COMMAND) == set(COMMANDS)
    names = {name for of_command in site.BY_COMMAND.values() for name in of_command.split()}
    assert names <= set(contrapose.__all__)


def test_the_page_of_papers_is_true() -> None:
    assert papers.PAGE.read_text(encoding="utf-8") == papers.page(), "run: python tests/house/papers.py"
