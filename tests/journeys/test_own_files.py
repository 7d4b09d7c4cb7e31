"""Files that a command wrote are looked at when they are read back: cut, emptied or garbled, nothing is silently wrong.

Whatever reads a broken file either says so in one line that names it and exits with 2, or ends with the very result
that it has when the file is whole.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

import commands
import numpy as np
import pytest

from contrapose.cli.main import find, main

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("few_levels", "undrawn", "parsers_once")]

BREAKING: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda content: content[: len(content) // 2],
    "emptied": lambda _: b"",
    "garbled": lambda content: np.random.default_rng(0).bytes(max(64, len(content))),
}
# which commands read what another one wrote, beside that command itself
READERS = {
    "prompts": ("pairs", "images", "split"),
    "pairs": ("shown", "lora", "exported", "page"),
    "groups": ("scored",),
    "scored": ("labelled",),
    "lora": ("aligned", "guided", "merged", "file", "page"),
    "full": ("guided",),
    "images": ("evidence",),
    "evidence": ("page", "tables"),
}
# of a study, whose folder holds what other commands wrote: what is its own
OF_STUDY = ("done.yaml", "choices.yaml")
# written for people, or along the way, and read by no command
UNREAD = re.compile(r"README\.md|events\.out.*|.*\.html|toy\.png|table\.(md|csv|json)|.*\.txt")


class Ended(NamedTuple):
    """How a command ended, and what it wrote: bytes by file."""

    code: int
    messages: list[str]
    files: dict[str, bytes]


@pytest.fixture(scope="module", autouse=True)
def no_picture() -> Iterator[None]:
    """The toy's picture takes longer than its seed, and nothing reads it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("contrapose.worlds.gaussians.toy.save_picture", lambda *_: None)
        yield


@pytest.fixture(scope="module")
def whole(undrawn: None, no_picture: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in which every command was run once; the working folder of this module."""
    folder = tmp_path_factory.mktemp("own") / "work"
    folder.mkdir()
    commands.write_inputs(folder)
    before = Path.cwd()
    os.chdir(folder)
    for line in commands.LINES:
        assert main(line.at()) == 0, line.name
    yield folder
    os.chdir(before)


def files_of(path: Path) -> dict[str, bytes]:
    """Bytes by file, but for what no two runs share (clocks, places) and what is written for people."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    kept = {}
    for file in files:
        if not UNREAD.fullmatch(file.name):
            name = file.relative_to(path).as_posix() if file != path else path.suffix
            kept[name] = re.sub(rb'"seconds": [^,}]*', b"", file.read_bytes())
    return kept


def kinds_of(path: Path) -> dict[str, Path]:
    """One file of every kind that a command wrote: numbers aside, and each folder's own."""
    if path.is_file():
        return {path.suffix: path}
    if path.name == commands.BY_NAME["study"].out:
        return {name: path / name for name in OF_STUDY}
    kinds: dict[str, Path] = {}
    for file in sorted(p for p in path.rglob("*") if p.is_file() and not UNREAD.fullmatch(p.name)):
        # a model's own files are the tests' of models
        if "model" not in file.parts or file.name.endswith("safetensors"):
            kinds[re.sub(r"[0-9a-f]{8,}|\d+", "N", file.relative_to(path).as_posix())] = file
    return kinds


def breakings_of(line: commands.Line) -> list[tuple[Path, str]]:
    """The files to break and how: in each way, or in one that takes turns where an earlier line's stand for them.

    Those are the files of the same kinds that the same command wrote, in its folder or in one below, as stages have.
    """
    lines = [other for other in commands.LINES if find(other.at())[0] == find(line.at())[0]]
    place = lines.index(line)
    earlier = tuple(f"/{kind}" for other in lines[:place] for kind in kinds_of(Path(other.out)))
    ways = list(BREAKING)
    breakings = []
    for number, (kind, file) in enumerate(kinds_of(Path(line.out)).items()):
        chosen = [ways[(place + number) % len(ways)]] if f"/{kind}".endswith(earlier) else ways
        breakings += [(file, how) for how in chosen]
    return breakings


def ended(line: commands.Line, out: str, capsys: pytest.CaptureFixture[str]) -> Ended:
    capsys.readouterr()
    code = main(line.at(out))
    messages = [text for text in capsys.readouterr().err.splitlines() if text.startswith("contrapose:")]
    return Ended(code, messages, files_of(Path(out)) if Path(out).exists() else {})


@contextmanager
def put_back(written: Path) -> Iterator[None]:
    """Whatever happens to a folder or file in the block, it is as before after it.

    What has not changed stays, as removing and writing whole models takes longer than the commands do.
    """
    before = _contents(written)
    try:
        yield
    finally:
        for path, content in sorted(_contents(written).items(), reverse=True):
            if path not in before or (content is None) != (before[path] is None):
                _remove(path)
        for path, content in before.items():
            if content is None:
                path.mkdir(exist_ok=True)
            elif not path.exists() or path.read_bytes() != content:
                path.write_bytes(content)


def _contents(written: Path) -> dict[Path, bytes | None]:
    """Bytes by file, None by folder, and each folder before what is in it."""
    paths = [written, *sorted(written.rglob("*"))] if written.exists() else []
    return {path: None if path.is_dir() else path.read_bytes() for path in paths}


def broken(file: Path, how: str) -> None:
    file.write_bytes(BREAKING[how](file.read_bytes()))


def ends_a_path(name: str, message: str) -> bool:
    """Whether a message holds a path that is, or ends with, this name, and not the name within another word."""
    return re.search(rf"(?<![\w.-]){re.escape(name)}(?![\w/-]|\.\w)", message) is not None


def test_a_name_is_a_whole_paths_end() -> None:
    for message in ("evidence: is", "in 'a/evidence', which", "at /a/evidence", "(evidence)", "evidence. Delete it"):
        assert ends_a_path("evidence", message)
    for message in (
        "no evidence-like",
        "my-evidence: is",
        "evidence/rows.parquet: is",
        "evidence.json: is",
        "devidence",
    ):
        assert not ends_a_path("evidence", message)


def complaint(result: Ended, written: Path, file: Path) -> str | None:
    """What is wrong with how a command refused a broken file, if it did."""
    if result.code != 2:
        return None
    message = result.messages[0] if len(result.messages) == 1 else ""
    # settings that are cut may still be settings, and are then told of as those of their folder
    subject = Path(message.removeprefix("contrapose: ").partition(": ")[0])
    if ends_a_path(file.name, message) or subject.is_relative_to(written):
        return None
    return f"{file}: told {result.messages}"


@pytest.mark.parametrize("name", [line.name for line in commands.LINES])
def test_every_command_again_says_so_and_changes_nothing(
    whole: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    line = commands.BY_NAME[name]
    before = files_of(Path(line.out))
    capsys.readouterr()
    assert main(line.at()) == 0
    captured = capsys.readouterr()
    assert "already" in captured.out + captured.err
    assert files_of(Path(line.out)) == before


@pytest.mark.parametrize("name", [line.name for line in commands.LINES])
def test_a_command_again_over_a_broken_file_names_it_or_makes_it_whole(
    whole: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    line = commands.BY_NAME[name]
    out, wrong = Path(line.out), []
    before = files_of(out)
    for file, how in breakings_of(line):
        with put_back(out):
            broken(file, how)
            result = ended(line, line.out, capsys)
        wrong += filter(None, [complaint(result, out, file)])
        if result.code == 0 and not _may_stay_broken(file):
            changed = [changed for changed in before if result.files.get(changed) != before[changed]]
            wrong += [f"{file}: {how}, taken for whole, {changed} changed"] if changed else []
    assert wrong == []


@pytest.mark.parametrize(("writer", "reader"), [(a, b) for a, readers in READERS.items() for b in readers])
def test_a_broken_file_is_named_by_what_reads_it_or_does_not_matter(
    whole: Path, capsys: pytest.CaptureFixture[str], writer: str, reader: str
) -> None:
    """Each file is broken in one of the ways, in turns, and the command that reads it is to write elsewhere."""
    written = Path(commands.BY_NAME[writer].out)
    line = commands.PAGES[writer] if reader == "page" else commands.BY_NAME[reader]
    out, wrong = f"other-{line.out}", []
    expected = ended(line, out, capsys).files
    for file, how in zip(kinds_of(written).values(), cycle(BREAKING), strict=False):
        _remove(Path(out))
        with put_back(written):
            broken(file, how)
            result = ended(line, out, capsys)
        wrong += filter(None, [complaint(result, written, file)])
        if result.code == 0 and result.files != expected:
            wrong.append(f"{file}: {how}, taken for whole")
    _remove(Path(out))
    assert wrong == []


def _may_stay_broken(file: Path) -> bool:
    """Whether a finished folder does not need the file any more: states, tables and images that led to it."""
    led_to_it = {"checkpoints", "candidates", "images", "ceiling", "features", "judged"} & set(file.parent.parts)
    return bool(led_to_it) or file.name in ("metrics.jsonl", "skipped.jsonl")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
