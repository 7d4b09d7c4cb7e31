"""A torchvision that does not fit the torch beside it is told in one line, before a library fails of it obscurely."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from contrapose.cli.main import main
from contrapose.cli.torchvision import check_torchvision

BROKEN = 'raise RuntimeError("operator torchvision::nms does not exist")\n'


@pytest.fixture
def torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A torchvision that is installed here; gives its one file, which is still empty."""
    folder = tmp_path / "site" / "torchvision"
    folder.mkdir(parents=True)
    monkeypatch.syspath_prepend(folder.parent)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    (folder / "__init__.py").write_text("")
    yield folder / "__init__.py"
    sys.modules.pop("torchvision", None)


@pytest.mark.parametrize(
    "arguments",
    [["evaluate", "--images", "base=x", "--out", "out"], ["sample", "--device", "cpu"], ["quickstart", "--out", "out"]],
    ids=lambda arguments: arguments[0],
)
@pytest.mark.parametrize("code", [BROKEN, 'raise OSError("libc10_cuda.so: cannot open")\n', "import no_such_part\n"])
def test_a_broken_torchvision_is_told(
    torchvision: Path, arguments: list[str], code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    torchvision.write_text(code)
    assert main(arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("contrapose: torchvision is installed but broken (")
    assert "pip uninstall torchvision" in lines[0]
    assert not Path("out").exists()


def test_help_and_commands_without_networks_do_not_mind(torchvision: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torchvision.write_text(BROKEN)
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", "--help"])
    assert stopped.value.code == 0
    assert main(["shapes", "prompts", "prompts.jsonl"]) == 0


def test_one_that_works_is_left_alone(torchvision: Path) -> None:
    torchvision.write_text("works = True\n")
    check_torchvision(["--images", "base=x"])
    assert sys.modules["torchvision"].works
