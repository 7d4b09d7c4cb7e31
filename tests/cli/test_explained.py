"""The help of every command explains every setting of its dataclasses."""

from __future__ import annotations

import re
from dataclasses import fields

import pytest
from declared import read_into, spellings

from contrapose import __version__
from contrapose.backbones.settings import Adapters, Haste
from contrapose.cli.main import COMMANDS, main
from contrapose.cli.options import flags_of
from contrapose.degrade.degraders import DEGRADERS
from contrapose.degrade.llm import LanguageModel
from contrapose.draw.pairs import Draw
from contrapose.guiding.images import Sampling
from contrapose.methods import METHODS
from contrapose.photographs.captions import Captioner
from contrapose.photographs.filters import FILTERS
from contrapose.photographs.real import Real
from contrapose.photographs.spoil import SPOILERS
from contrapose.train.judging import RolloutJudging
from contrapose.train.settings import GUARDS, LINKS, First, Optimisation, Run, Watching
from contrapose.train.sharding_settings import Sharding

Capture = pytest.CaptureFixture[str]


def _help(capsys: Capture, *arguments: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        main([*arguments, "--help"])
    assert stopped.value.code == 0
    return capsys.readouterr().out


def _flags(*classes: type) -> list[str]:
    nested = {
        "method",
        "optimisation",
        "watching",
        "first",
        "stage1",
        "loading",
        "fitting",
        "guiding",
        "adapters",
        "speed",
        "sharding",
        "judging",
        "sampling",
        "groups",
        "old",
    }
    return [f"--{f.name.replace('_', '-')}" for cls in classes for f in fields(cls) if f.name not in nested]


def _explained(text: str, flags: list[str]) -> None:
    missing = [flag for flag in flags if not re.search(rf"{flag}\b", text)]
    assert missing == []


@pytest.mark.parametrize("command", COMMANDS)
def test_every_setting_has_a_sentence(command: str) -> None:
    unexplained = set()
    for arguments in spellings(command):
        cls, rest, template, unions = read_into(arguments)
        _, flags = flags_of(cls, rest, command, template, unions)
        unexplained |= {(arguments[-1], leaf.flag) for leaf in flags if not leaf.help}
    assert unexplained == set()


@pytest.mark.parametrize("method", METHODS)
def test_align_explains_every_setting(capsys: Capture, method: str) -> None:
    _explained(
        _help(capsys, "align", method),
        _flags(Run, Adapters, Optimisation, First, Watching, RolloutJudging, Haste, Sharding, METHODS[method]),
    )


@pytest.mark.parametrize("link", LINKS)
def test_align_explains_the_link(capsys: Capture, link: str) -> None:
    _explained(_help(capsys, "align", "ddspo", "--link", link), _flags(LINKS[link]))


@pytest.mark.parametrize("guard", GUARDS)
def test_align_explains_the_guard(capsys: Capture, guard: str) -> None:
    names = [f"--guard.{f.name}" for f in fields(GUARDS[guard])]
    _explained(_help(capsys, "align", "diffusion-dpo", "--guard", guard), ["--guard", *names])


@pytest.mark.parametrize("degrader", DEGRADERS)
def test_draw_explains_every_setting(capsys: Capture, degrader: str) -> None:
    text = _help(capsys, "pairs", "draw", "--degrade", degrader)
    names = [f"degrade.{f.name}" for f in fields(DEGRADERS[degrader]) if f.name != "llm"]
    if degrader.startswith("llm-"):
        names += [f"degrade.llm.{f.name}" for f in fields(LanguageModel)]
    _explained(text, [*_flags(Draw), *(f"--{name.replace('_', '-')}" for name in names)])


@pytest.mark.parametrize("spoiler", SPOILERS)
def test_real_explains_every_setting(capsys: Capture, spoiler: str) -> None:
    text = _help(capsys, "pairs", "real", "--spoil", spoiler, "--captioner", "model", "--filters", *FILTERS)
    parts = [("spoil", SPOILERS[spoiler]), ("captioner", Captioner)]
    parts += [(f"filters.{number}", cls) for number, cls in enumerate(FILTERS.values())]
    nested = [f"--{part}.{f.name.replace('_', '-')}" for part, cls in parts for f in fields(cls) if f.name != "scorer"]
    _explained(text, [*_flags(Real), *nested])


def test_sample_explains_every_setting(capsys: Capture) -> None:
    _explained(_help(capsys, "sample"), [*_flags(Sampling, Haste), "--out"])


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "align"])
def test_every_command_has_help(capsys: Capture, name: str) -> None:
    assert f"contrapose {name}" in _help(capsys, *name.split())


def test_align_without_a_method_has_help(capsys: Capture) -> None:
    assert main(["align", "--help"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in METHODS)


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]])
def test_usage_names_every_command(capsys: Capture, arguments: list[str]) -> None:
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in COMMANDS)


def test_version(capsys: Capture) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == __version__
