"""Every dependency has its reason, and what the field's environments break on is not among them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UNWANTED = {"torchvision", "torch-fidelity", "clean-fid", "open-clip", "open-clip-torch", "timm"}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def listed_in_pyproject() -> dict[str, set[str]]:
    """Names by kind; read with a regular expression, as Python 3.10 has no TOML reader."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    kinds = {"runtime": "dependencies", "development": "dev"}
    blocks = {kind: re.search(rf"^{key} = \[\n(.*?)^\]", text, re.MULTILINE | re.DOTALL) for kind, key in kinds.items()}
    assert all(blocks.values())
    return {k: {normal(n) for n in re.findall(r'^\s*"([\w.-]+)', b[1], re.MULTILINE)} for k, b in blocks.items() if b}


def listed_in_document() -> dict[str, dict[str, str]]:
    """Reasons by kind and name, from the tables under `## Runtime` and `## Development`."""
    text = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    _, *parts = re.split(r"^## (\w+).*$", text, flags=re.MULTILINE)
    sections = dict(zip(map(str.lower, parts[::2]), parts[1::2], strict=True))
    row = re.compile(r"^\| `([^`]+)` \| (.*) \|$", re.MULTILINE)
    return {kind: {normal(n): reason for n, reason in row.findall(sections[kind])} for kind in listed_in_pyproject()}


@pytest.mark.parametrize("kind", ["runtime", "development"])
def test_every_dependency_has_a_reason_and_every_reason_a_dependency(kind):
    asked, explained = listed_in_pyproject()[kind], listed_in_document()[kind]
    assert asked and asked == set(explained)
    assert all(len(reason.split()) >= 4 for reason in explained.values())


def test_unwanted_packages_are_in_neither_list():
    for names in (*listed_in_pyproject().values(), *listed_in_document().values()):
        assert not UNWANTED & set(names)
