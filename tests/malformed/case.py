"""One malformed input: how it is made from what the commands wrote, and the answer that is expected."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

Arguments = list[str]
Tensors = dict[str, torch.Tensor]
NAN, INF = float("nan"), float("inf")
DEEP = ("a: " + "[" * 3000 + "]" * 3000).encode()


@dataclass(frozen=True)
class Case:
    """One input: what is prepared in an empty folder for a command, and what the answer has to say."""

    section: str
    name: str
    prepare: Callable[[Path], Arguments]
    named: str = ""
    code: int = 2

    def __str__(self) -> str:
        return f"{self.section}: {self.name}"


class Place:
    """The folder in which every command has run once."""

    base = Path()

    @classmethod
    def of(cls, name: str) -> str:
        return str(cls.base / name)


def copied(name: str, to: Path) -> Path:
    """A copy of what a command wrote, to be spoiled."""
    source = Place.base / name
    return Path(shutil.copytree(source, to) if source.is_dir() else shutil.copy2(source, to))


def typed(*arguments: str) -> Callable[[Path], Arguments]:
    """Arguments in which `@name` is what a command wrote."""

    def prepare(_: Path) -> Arguments:
        return [Place.of(a[1:]) if a.startswith("@") else a for a in arguments]

    return prepare


def put(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda out: (out / name).write_bytes(content)


def weights(pattern: str, change: Callable[[Tensors], object]) -> Callable[[Path], None]:
    """Change the tensors of the one file of this pattern."""

    def apply(folder: Path) -> None:
        [path] = folder.glob(pattern)
        with safe_open(path, "pt") as file:
            header = file.metadata()
        found = load_file(path)
        change(found)
        save_file(found, path, header)

    return apply


def halved(found: Tensors) -> None:
    for name in sorted(found)[::2]:
        del found[name]


def poisoned(found: Tensors) -> None:
    for value in found.values():
        value.fill_(NAN)


def config(path: str, **values: Any) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        found = json.loads((folder / path).read_text())
        (folder / path).write_text(json.dumps({**found, **values}))

    return apply
