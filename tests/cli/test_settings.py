"""Every number of every command, out of its range: one line that names it, exit code 2, and nothing on disk."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from declared import Setting, read_into, required_of, settings_in, spellings

from contrapose.cli.main import COMMANDS, main
from contrapose.documents import dump_yaml
from contrapose.judges.table import JUDGES
from contrapose.methods import METHODS
from contrapose.photographs import real
from contrapose.photographs.captions import Captioner
from contrapose.photographs.filters import FILTERS
from contrapose.photographs.spoil import SPOILERS
from contrapose.train import settings as training

pytestmark = pytest.mark.slow

Refused = Callable[[list[str]], str]


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs a command in an empty folder; gives its one line, or what else came of it."""
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.rglob("*"))

    def run(arguments: list[str]) -> str:
        try:
            code = main(arguments)
        except Exception as error:  # a traceback, to whoever types this
            return f"TRACEBACK {error!r}"
        line = capsys.readouterr().err
        made = set(tmp_path.rglob("*")) - before - {tmp_path / "settings.yaml", tmp_path / "p.txt"}
        return line if (code, len(line.splitlines()), made) == (2, 1, set()) else f"CODE {code} MADE {made} SAID {line}"

    return run


def _names(line: str, setting: Setting) -> bool:
    """Whether a complaint names the setting, as in a file or as a flag."""
    either = "|".join(map(re.escape, (setting.name, setting.flag)))
    return line.startswith("contrapose: ") and re.search(rf"(?<![\w-])({either})(?![\w-])", line) is not None


def _on_the_command_line(command: str) -> Iterator[tuple[Setting, list[str]]]:
    """Command lines with one malformed number each."""
    seen: set[tuple[type, str]] = set()
    for arguments in spellings(command):
        read = read_into(arguments)
        required = required_of(*read)
        for setting in settings_in(*read):
            if (setting.owner, setting.name) in seen:
                continue
            seen.add((setting.owner, setting.name))
            for text in dict.fromkeys(_text(value, setting) for value in setting.malformed):
                values = [setting.flag, *[text] * setting.num] if setting.num else [f"{setting.flag}={text}"]
                yield setting, [*arguments, *required, *values]


def _text(value: Any, setting: Setting) -> str:
    """A value as it is typed; all that is no whole number is told alike, so that nan stands for it."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    return "nan" if setting.kind is int and not whole else str(value).lower()


@pytest.mark.usefixtures("parsers_once")
@pytest.mark.parametrize("command", COMMANDS)
def test_malformed_flags(command: str, refused: Refused) -> None:
    complaints = [(line, refused(line), setting) for setting, line in _on_the_command_line(command)]
    assert [(line, said) for line, said, setting in complaints if not _names(said, setting)] == []


def test_there_are_many() -> None:
    assert sum(len(list(_on_the_command_line(command))) for command in COMMANDS) >= 300


def _runs() -> Iterator[Any]:
    for method in METHODS.values():
        linked = "link" in {field.name for field in fields(method)}
        for given in [{"link": link()} for link in training.LINKS.values()] if linked else [{}]:
            yield training.Run("x", Path("x"), method(**given))
    for guard in training.GUARDS.values():
        yield training.Run("x", Path("x"), METHODS["diffusion-dpo"](guard=guard()))


def _reals() -> Iterator[Any]:
    for spoiler in SPOILERS.values():
        yield real.Real("x", Path("x"), spoil=spoiler(), captioner=Captioner())
    for kind in FILTERS.values():
        scorers = [{"scorer": scorer()} for scorer in JUDGES.values()] if kind in _OF_ANY_SCORER else [{}]
        yield real.Real("x", Path("x"), filters=tuple(kind(**scorer) for scorer in scorers))


_OF_ANY_SCORER = (FILTERS["scorer-gap"], FILTERS["top-k"])
FILES: dict[str, tuple[list[str], Any, Callable[[], Iterator[Any]]]] = {
    "run.yaml": (["align"], training.CONVERTER, _runs),
    "real.yaml": (["pairs", "real"], real.CONVERTER, _reals),
}


@pytest.mark.parametrize("kind", FILES)
def test_malformed_numbers_in_files(kind: str, refused: Refused) -> None:
    command, converter, templates = FILES[kind]
    wrong, seen = [], set()
    for template in templates():
        for setting in settings_in(type(template), (), template):
            if (setting.owner, setting.name) in seen:
                continue
            seen.add((setting.owner, setting.name))
            for value in setting.malformed:
                raw = converter.unstructure(template)
                _put(raw, setting.key, [value] * setting.num if setting.num else value)
                Path("settings.yaml").write_text(dump_yaml(raw), encoding="utf-8")
                line = refused([*command, "settings.yaml", "--out", "out"])
                if not (_names(line, setting) and "settings.yaml" in line):
                    wrong.append((setting.key, value, line))
    assert wrong == []
    assert len(seen) >= 20


def _put(raw: Any, key: tuple[str | int, ...], value: Any) -> None:
    for step in key[:-1]:
        raw = raw[step]
    assert key[-1] in raw
    raw[key[-1]] = value


SAMPLING = ["--model", "x", "--prompts", "p.txt", "--out", "out"]
TEXTS = [
    (["study", "choice", "x", "x", "scale", "--at", "3"], "at: is for a checkpoint"),
    (["sample", *SAMPLING, "--interval", "0.5", "0.5"], "interval"),
    (["sample", *SAMPLING, "--interval", "1", "0"], "interval"),
    (["sample", *SAMPLING, "--interval", "0.5"], "--interval"),
    (["sample", *SAMPLING, "--interval", "x", "1"], "--interval"),
    (["sample", *SAMPLING, "--schedule", "sine"], "--schedule"),
    (["sample", *SAMPLING, "--guidance", "none"], "--guidance none"),
    (["sample", *SAMPLING, "--precision", "fp8"], "--precision"),
    (["sample", *SAMPLING, "--quantize", ""], "--quantize"),
    *((["sweep", *SAMPLING, "--positive", "x", f"--scales={text}"], "scales") for text in ("", "0,1", "x", "nan")),
    *((["sweep", *SAMPLING, "--positive", "x", f"--scales={text}"], "scales") for text in ("-inf", "1e400", "1 1")),
    (["pairs", "draw", *SAMPLING, "--degrade", ""], "--degrade"),
    (["pairs", "draw", *SAMPLING, "--degrade.low", "0.9"], "low 0.9"),
    (["pairs", "real", "--model", "x", "--photos", "x", "--out", "out", "--filters", "none"], "--filters none"),
    (["pairs", "import", "--model", "x", "--source", "x", "--out", "out", "--format", "zip"], "--format"),
    (["pairs", "import", "--model", "x", "--out", "out"], "--source"),
    (["align", "sft", "--model", "x", "--pairs", "x:0", "--out", "out"], "pairs x: weight 0.0"),
    (["align", "sft", "--model", "x", "--pairs", "x:1000000000", "--out", "out"], "pairs x: weight"),
    (["align", "sft", "--model", "x", "--pairs", "x" * 5000, "--out", "out"], "xxxx"),
    (["align", "sft", "--model", "x", "--pairs", "x", "--out", "out", "--batch-size", "9"], "batch_size 9"),
    (["shapes", "prompts", "out", "--split", "all"], "--split"),
    (["quickstart", "--out", "out", "--methods"], "methods"),
    (["quickstart", "--out", "out", "--seeds"], "seeds"),
    (["quickstart", "--out", "out", "--model", "./nowhere"], "./nowhere"),
    (["toy", "--out", "out", "--pairs-per-class"], "pairs_per_class"),
    (["toy", "--out", "out", "--num-modes", "7"], "num_modes"),
    (["estimate", "none", "--model", "x"], "none: no such method"),
    (["merge", "--model", "x", "--positive", "x", "--out", "out", "--scale", "0"], "scale 0"),
]


@pytest.mark.parametrize(("arguments", "naming"), TEXTS, ids=lambda value: " ".join(value)[:60])
def test_settings_that_make_no_sense(arguments: list[str], naming: str, refused: Refused) -> None:
    Path("p.txt").write_text("a cat\n", encoding="utf-8")
    line = refused(arguments)
    assert line.startswith("contrapose: ") and naming in line


NOT_SETTINGS: dict[str, bytes] = {
    "a key twice": b"seed: 1\nseed: 2\n",
    "a key twice deep inside": b"optimisation:\n  steps: 1\n  steps: 2\n",
    "a tag": b"seed: !!python/object/apply:os.system [true]\n",
    "an alias": b"a: &a [1]\nseed: *a\n",
    "laughs": b"a: &a [1,1]\nb: &b [*a,*a]\nseed: [*b,*b]\n",
    "lists in lists": b"seed: " + b"[" * 3000 + b"]" * 3000,
    "maps in maps": b"{a: " * 2000 + b"1" + b"}" * 2000,
    "a line of a megabyte": b"model: " + b"x" * (1 << 20) + b"\n",
    "not UTF-8": b"model: \xff\xfe\n",
    "binary": bytes(range(256)),
    "NUL": b"model: a\0b\n",
    "broken": b"a: [b\n: {",
    "empty": b"",
    "a list": b"- seed\n",
    "text": b"seed\n",
    "a number of many digits": b"seed: " + b"9" * 5000 + b"\n",
    "a path with NUL": b'model: x\npairs: "a\\0b"\nphotos: "a\\0b"\n',
}


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("case", NOT_SETTINGS)
def test_a_file_that_is_no_settings(kind: str, case: str, refused: Refused) -> None:
    Path("settings.yaml").write_bytes(NOT_SETTINGS[case])
    line = refused([*FILES[kind][0], "settings.yaml", "--out", "out"])
    assert re.match("contrapose: settings.yaml: ", line), line


@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_cannot_be_read(kind: str, refused: Refused) -> None:
    command, loop, long = FILES[kind][0], Path("settings.yaml"), f"{'a' * 5000}.yaml"
    assert refused([*command, "none.yaml", "--out", "out"]).startswith("contrapose: none.yaml: ")
    assert refused([*command, long, "--out", "out"]).startswith("contrapose: aaa")
    loop.symlink_to(loop)
    assert refused([*command, "settings.yaml", "--out", "out"]).startswith("contrapose: settings.yaml: ")
    loop.unlink()
    loop.mkdir()
    assert refused([*command, "settings.yaml", "--out", "out"]).startswith("contrapose: settings.yaml: ")
    loop.rmdir()
