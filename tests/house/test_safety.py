"""Nothing that is read can run: no code of a model's folder, no pickle, no image format that starts a program."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src"
FILES = sorted(SOURCE.rglob("*.py"))
FORBIDDEN = {"torch.load", "pickle.load", "pickle.loads", "os.system", "eval", "exec", "input"}
READERS = ("from_pretrained", "from_config")


def faults(tree: ast.AST) -> Iterator[str]:
    """What is unsafe among a file's calls, with its line."""
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = ast.unparse(call.func)
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        receiver, _, method = name.rpartition(".")
        if name in FORBIDDEN:
            yield f"line {call.lineno}: calls {name}"
        of_any_class = re.match("Auto[A-Z]", receiver.rpartition(".")[2]) and method in READERS
        if of_any_class and "trust_remote_code" not in keywords:
            yield f"line {call.lineno}: {name} without trust_remote_code=False, which asks on a terminal"
        if keywords.get("trust_remote_code", "False") != "False":
            yield f"line {call.lineno}: {name} trusts code"
        if keywords.get("allow_pickle", "False") != "False":
            yield f"line {call.lineno}: {name} reads pickles"
        if keywords.get("use_safetensors", "True") != "True":
            yield f"line {call.lineno}: {name} reads what is no safetensors"
        if name == "Image.open" and "formats" not in keywords:
            yield f"line {call.lineno}: Image.open without formats, some of which start programs"


def test_calls_are_safe() -> None:
    assert FILES
    found = []
    for path in FILES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found += [f"{path.relative_to(SOURCE)}: {fault}" for fault in faults(tree)]
    assert found == []


UNSAFE = [
    "AutoTokenizer.from_pretrained(folder)",
    "transformers.AutoConfig.from_pretrained(folder, trust_remote_code=None)",
    "AutoModel.from_config(config, **options)",
    "CLIPModel.from_pretrained(folder, trust_remote_code=trusted)",
    "pipeline.from_pretrained(folder, use_safetensors=False)",
    "torch.load(path, weights_only=True)",
    "np.load(path, allow_pickle=trusted)",
    "Image.open(path)",
    "input('really? ')",
]
SAFE = [
    "AutoTokenizer.from_pretrained(folder, trust_remote_code=False)",
    "AutoencoderKL.from_pretrained(folder)",
    "Image.open(path, formats=['PNG'])",
    "load_file(path)",
]


@pytest.mark.parametrize("line", UNSAFE)
def test_the_rule_sees_what_is_unsafe(line: str) -> None:
    assert list(faults(ast.parse(line)))


@pytest.mark.parametrize("line", SAFE)
def test_the_rule_lets_be_what_is_safe(line: str) -> None:
    assert not list(faults(ast.parse(line)))
