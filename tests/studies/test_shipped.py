"""The studies that ship: each is read and planned, every command line is one that its command takes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from contrapose.cli.main import main
from contrapose.studies.choosing import Placeholders
from contrapose.studies.quickstart import Quickstart
from contrapose.studies.settings import read_study
from contrapose.studies.shell import quoted
from contrapose.studies.stages import stages

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "studies").rglob("*.yaml"))
PAPERS = [path for path in FILES if path.parent.name == "papers"]


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_shipped_study_is_planned_and_listed(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)  # recipes are named from here
    assert main(["study", "plan", str(path.relative_to(ROOT))]) == 0
    lines = capsys.readouterr().out.splitlines()
    commands = [line for line in lines if line and not line.startswith("#")]
    assert all(line.startswith("contrapose ") for line in commands)
    assert len(set(commands)) == len(commands)
    assert commands[-1] == f"contrapose study report {path.relative_to(ROOT)}"
    assert path.name in (ROOT / "studies" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", PAPERS, ids=lambda path: path.stem)
def test_a_papers_study_says_what_was_published_and_what_is_our_choice(path: Path) -> None:
    study = read_study(path)
    assert study.published is not None
    assert re.search(r"arXiv \d{4}\.\d{5}", study.published.source)
    assert any(study.published.rows.values()) or "No figure" in study.published.notes[0]
    assert "*our choice*" in path.read_text(encoding="utf-8")


FIGURES = {
    "ddspo-table-1a": ("ddspo", (0.5045, 0.3823, 16.39, 38.10)),
    "ddspo-table-1b-sdxl": ("ddspo", (0.6049, 0.4857)),
    "ddspo-table-1b-sana": ("ddspo", (0.7266, 0.5255)),
    "ddspo-table-1b-sd3": ("ddspo", (0.7384, 0.5740)),
    "ddspo-table-2-sd15": ("ddspo", (27.46, 21.35)),
    "ddspo-table-2-sdxl": ("ddspo", (28.78, 22.70)),
    "ddspo-table-3a": ("llama-aesthetics", (0.4758, 0.3616, 27.51, 21.39)),
    "ddspo-table-3b": ("not-paired", (0.4891, 0.3842)),
    "realalign-stages": ("both", (21.04, 7.33, 3.96, 5.64)),
    "pgd-sweep-sdxl": ("dpo", (89.4, 66.3)),
    "pgd-sweep-sd15": (None, ()),
}


@pytest.mark.parametrize("path", PAPERS, ids=lambda path: path.stem)
def test_the_published_figures_are_those_of_the_papers_table(path: Path) -> None:
    row, figures = FIGURES[path.stem]
    published = read_study(path).published
    assert published is not None
    assert tuple(published.rows[row].values() if row else ()) == figures


def test_the_quickstart_makes_what_its_methods_need_and_nothing_else() -> None:
    quick = Quickstart(out=Path("q"))
    study = quick.study()
    outs = [str(line.out) for stage in stages(study, Placeholders(study)) for line in stage.lines if line.out]
    names = ("base", "diffusion-dpo", "ddspo")
    images = [f"q/images/scale-{scale}/{name}" for scale in "13" for name in names]
    runs = ["q/runs/diffusion-dpo", "q/runs/ddspo"]
    assert outs == [
        "q/train.jsonl",
        "q/test.jsonl",
        *(f"q/pairs/{name}" for name in ("worded", "own", "scored", "labelled")),
        *runs,
        *images,
        "q/evidence/scale-1",
        "q/evidence/scale-3",
    ]
    several = Quickstart(out=Path("q"), seeds=(0, 2), methods=("ddspo",))
    study = several.study()
    lines = [line for stage in stages(study, Placeholders(study)) for line in stage.lines]
    assert [str(line.out) for line in lines if line.words[0] == "align"] == ["q/runs/ddspo-0", "q/runs/ddspo-2"]
    assert [str(line.out) for line in lines if line.words[0] == "pairs" and line.out] == ["q/pairs"]
    judged = [line.words for line in lines if line.words[0] == "evaluate"]
    assert "ddspo/2=q/images/scale-1/ddspo-2" in judged[0]


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("plain", "plain"),
        ("", "''"),
        ("two words", "'two words'"),
        ("$HOME", "'$HOME'"),
        ("a\x1fcontrapose 'my file.yaml' m\x1f/b c", "a\"$(contrapose 'my file.yaml' m)\"'/b c'"),
    ],
)
def test_a_word_for_a_shell(word: str, text: str) -> None:
    assert quoted(word) == text
