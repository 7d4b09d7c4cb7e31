"""Nothing in a tracked file that is of one machine, unsafe to load, or against the list of dependencies."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
THIS = Path(__file__)
FORBIDDEN = {
    "a home or machine path": r"(?<![\w.])/(home|Users|root|work|mnt|scratch|data)/\w",
    "pickle": r"^\s*(import|from)\s+(pickle|dill|cloudpickle|joblib)\b|allow_pickle\s*=\s*True",
    "torch.load without weights_only": r"torch\.load\((?![^)]*weights_only\s*=\s*True)",
    "torch.save": r"torch\.save\(",
    "trust_remote_code": r"trust_remote_code\s*=\s*True",
    "torchvision": r"^\s*(import|from)\s+torchvision\b|^\s*\"torchvision",
    "a key": r"\b(hf_[A-Za-z0-9]{30,}|sk-[A-Za-z0-9]{20,}|AKIA[0-9A-Z]{16}|ghp_[A-Za-z0-9]{30,})\b",
    "unsafe YAML": r"yaml\.(load|unsafe_load|full_load)\(",
}


SHIPPED_ONLY = ("pickle", "torch.save")  # a test may ask whether a thing can be pickled


def _tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:  # an image or weights
        return ""


@pytest.mark.parametrize("name", FORBIDDEN)
def test_no_tracked_file_holds(name: str) -> None:
    pattern = re.compile(FORBIDDEN[name], re.MULTILINE)
    found = [
        f"{path.relative_to(ROOT)}: {match.group().strip()}"
        for path in _tracked()
        if path != THIS and (name not in SHIPPED_ONLY or path.is_relative_to(ROOT / "src"))
        for match in [pattern.search(_text(path))]
        if match
    ]
    assert found == []


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("a home or machine path", 'MODEL = "/home/ann/model"'),
        ("pickle", "import pickle"),
        ("torch.load without weights_only", "torch.load(path, map_location='cpu')"),
        ("trust_remote_code", "from_pretrained(x, trust_remote_code=True)"),
        ("torchvision", "from torchvision import transforms"),
    ],
)
def test_the_rule_sees(name: str, line: str) -> None:
    assert re.search(FORBIDDEN[name], line, re.MULTILINE)


def test_weights_only_is_allowed() -> None:
    assert not re.search(FORBIDDEN["torch.load without weights_only"], "torch.load(path, weights_only=True)")
