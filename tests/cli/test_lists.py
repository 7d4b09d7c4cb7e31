"""A list that is given by two flags: one line, whichever command and list it is."""

from __future__ import annotations

from typing import get_args

import pytest
from declared import read_into, spellings

from contrapose.cli.leaf import Leaf
from contrapose.cli.main import COMMANDS, main
from contrapose.cli.options import flags_of
from contrapose.estimate.settings import UNCOUNTED


def _lists() -> list[tuple[list[str], Leaf]]:
    """Every list of every command, with a way to type that command."""
    lists: dict[tuple[str, str], tuple[list[str], Leaf]] = {}
    for command in COMMANDS:
        for arguments in spellings(command):
            cls, rest, template, unions = read_into(arguments)
            for leaf in flags_of(cls, rest, "x", template, unions)[1]:
                # estimate has no flag for what costs nothing
                has_flag = command != "estimate" or leaf.name not in UNCOUNTED
                if leaf.is_list and has_flag and f"--{leaf.flag}" not in arguments:
                    lists.setdefault((command, leaf.flag), (arguments, leaf))
    return list(lists.values())


@pytest.mark.slow
def test_every_list_is_written_after_one_flag(capsys: pytest.CaptureFixture[str]) -> None:
    lists = _lists()
    assert {"images", "scales", "filters", "judges.0.higher"} <= {leaf.flag for _, leaf in lists}
    for arguments, leaf in lists:
        names = get_args(get_args(leaf.hint)[0])  # of a union
        value = names[0] if leaf.chooses and isinstance(names[0], str) else "0"
        assert main([*arguments, f"--{leaf.flag}", value, f"--{leaf.flag}={value}"]) == 2
        line = capsys.readouterr().err
        assert line.startswith(f"contrapose: --{leaf.flag} is given twice"), (arguments, line)
        assert len(line.splitlines()) == 1


def test_two_flags_of_images(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--images", "base=a", "--out", "out", "--images", "ddspo=b"]) == 2
    assert capsys.readouterr().err == (
        "contrapose: --images is given twice, and only the last would count; write all after one flag\n"
    )
