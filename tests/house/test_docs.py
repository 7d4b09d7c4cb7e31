"""The documents say what is true of the code: links to lines and files, runnable examples, README's tree."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "contrapose"
FOLDERS = ("benchmarks", "docs", "recipes", "src", "tests")
PAGES = sorted([*ROOT.glob("*.md"), *(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md"))])
LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")
PYTHON = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
SKIP = "<!-- needs a model -->"  # on the line before a ```python block that cannot run here
TREE = re.compile(r"<!-- tree -->\n(.*?)<!-- /tree -->", re.DOTALL)


def prose(page: Path) -> str:
    """A page without its fenced blocks, in which brackets are code."""
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def links(page: Path) -> list[tuple[str, str]]:
    """(text, address) of the page's relative links."""
    return [found for found in LINK.findall(prose(page)) if not re.match(r"[a-z]+:|#", found[1])]


def definitions(source: str) -> set[str]:
    """Every module-level name, and each class's members as `Class.member`."""
    names: set[str] = set()

    def visit(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names.add(prefix + node.name)
            if isinstance(node, ast.ClassDef):
                visit(node.body, f"{node.name}.")
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            names.update(prefix + target.id for target in targets if isinstance(target, ast.Name))

    visit(ast.parse(source).body, "")
    return names


def names_code(link: tuple[str, str]) -> bool:
    """Whether a link's text is a name in code that its Python file is to define."""
    text, address = link
    return address.partition("#")[0].endswith(".py") and text.startswith("`") and not text.endswith(".py`")


def rotten(link: tuple[str, str], page: Path) -> str | None:
    """What is wrong with a link of a defined name; it has no line, which every other change would move."""
    text, address = link
    path, _, line = address.partition("#")
    if line:
        return f"{address}: leave the line out; the name finds it"
    if text.strip("`") not in definitions((page.parent / path).read_text(encoding="utf-8")):
        return f"{address}: nothing named {text} is defined there"
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_relative_links_lead_somewhere(page):
    missing = [address for _, address in links(page) if not (page.parent / address.partition("#")[0]).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_of_names_lead_to_their_definition(page):
    complaints = [rotten(link, page) for link in links(page) if names_code(link)]
    assert not [complaint for complaint in complaints if complaint]


def test_the_theory_points_at_its_code():
    assert sum(map(names_code, links(ROOT / "docs" / "idea.md"))) >= 10


def test_a_rotten_link_is_seen(tmp_path):
    (tmp_path / "a.py").write_text("X = 1\n\nclass A:\n    y: int = 2\n\n    def f(self):\n        pass\n")
    page = tmp_path / "page.md"
    good = ["[`X`](a.py)", "[`A`](a.py)", "[`A.f`](a.py)", "[`A.y`](a.py)"]
    bad = ["[`X`](a.py#L1)", "[`f`](a.py)", "[`Y`](a.py)", "[`X`](a.py#top)"]
    page.write_text("\n".join([*good, *bad, "[`a.py`](a.py)", "[the file](a.py)"]))
    assert [bool(rotten(link, page)) for link in links(page) if names_code(link)] == [False] * 4 + [True] * 4


def examples(page: Path) -> list[pytest.param]:
    """The page's ```python blocks that are to run, each named by its line."""
    text = page.read_text(encoding="utf-8")
    blocks = [b for b in PYTHON.finditer(text) if not text[: b.start()].rstrip().endswith(SKIP)]
    return [pytest.param(b[1], id=f"{page.name}:{text.count(chr(10), 0, b.start()) + 1}") for b in blocks]


@pytest.mark.parametrize("example", [example for page in PAGES for example in examples(page)])
def test_examples_run(example, tmp_path, monkeypatch):
    """One that cannot run here is preceded by the comment in SKIP."""
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "example", "exec"), {"__name__": "example"})


def told(tree: str) -> set[str]:
    """The names one level below the first line of a drawn tree: `core/` for a folder, `files.py` for a file."""
    rows = [re.match(r"[\s│├└─]*", line) for line in tree.splitlines() if line.strip()]
    depths = [(len(row[0]), row.string[row.end() :].split()[0]) for row in rows[1:] if row]
    top = min((depth for depth, _ in depths), default=0)
    return {name for depth, name in depths if depth == top}


def real(package: Path) -> set[str]:
    """A package's own folders and modules."""
    folders = {f"{p.name}/" for p in package.iterdir() if p.is_dir() and any(p.rglob("*.py"))}
    return folders | {p.name for p in package.glob("*.py") if p.name != "__init__.py"}


def difference(readme: str, package: Path) -> str:
    """What README's tree leaves out or invents, as a line to read; empty when it is right."""
    found = TREE.search(readme)
    if not found:
        return "README.md has no tree between <!-- tree --> and <!-- /tree -->"
    named, there = told(found[1]), real(package)
    parts = {"left out": there - named, "not there": named - there}
    return "; ".join(f"{kind}: {', '.join(sorted(names))}" for kind, names in parts.items() if names)


def test_readme_shows_the_real_tree():
    wrong = difference((ROOT / "README.md").read_text(encoding="utf-8"), PACKAGE)
    assert not wrong, wrong


def test_a_wrong_tree_is_seen():
    names = sorted(real(PACKAGE))

    def readme(shown: list[str]) -> str:
        return "<!-- tree -->\n    src/contrapose/\n" + "\n".join(shown) + "\n<!-- /tree -->"

    for branch in ("      ", "    ├── "):
        rows = [f"{branch}{name:<14} what it is" for name in names]
        assert difference(readme(rows), PACKAGE) == ""
        assert difference(readme([*rows, f"    {branch}objective.py   deeper"]), PACKAGE) == ""
        assert difference(readme([r for r in rows if "cli/" not in r]), PACKAGE) == "left out: cli/"
        assert difference(readme([*rows, f"{branch}utils/ odds and ends"]), PACKAGE) == "not there: utils/"
    assert "no tree" in difference("", PACKAGE)
