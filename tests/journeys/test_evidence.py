"""The quickstart, from prompts to the page, on an untrained model; and what evaluate and report refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from contrapose.cli.main import main

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("undrawn")]

SMALL = ["--per-tag", "2", "--train-per-tag", "2", "--train-steps", "1", "--steps", "1"]


@pytest.fixture(scope="module")
def quickstart(undrawn: None, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("quick") / "start"
    assert main(["quickstart", "--model", str(tiny_model), "--out", str(out), *SMALL]) == 0
    return out


def test_the_quickstart_ends_in_a_page_with_every_model_floor_and_ceiling(quickstart: Path) -> None:
    page = (quickstart / "report.html").read_text()
    for name in ("base", "diffusion-dpo", "ddspo", "floor", "ceiling"):
        assert name in page
    summary = json.loads((quickstart / "evidence" / "scale-1" / "summary.json").read_text())
    assert set(summary["comparisons"]) == {"diffusion-dpo", "ddspo"}
    assert {"correct", "drift"} <= set(summary["metrics"])
    assert summary["models"]["ceiling"]["metrics"]["correct"]["overall"]["value"] >= 0.0


def test_the_quickstart_again_makes_nothing_new_but_the_page(
    quickstart: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = [p for p in quickstart.rglob("*") if p.suffix in (".png", ".safetensors")]
    before = {path: path.stat().st_mtime_ns for path in kept}
    images = next(p for p in kept if p.suffix == ".png" and "base" in p.parts)
    lost = images.read_bytes()
    images.unlink()  # as if killed there
    assert main(["quickstart", "--model", str(tiny_model), "--out", str(quickstart), *SMALL]) == 0
    assert images.read_bytes() == lost
    batch = {p for p in kept if p.parts[:-2] != images.parts[:-2]}
    others = {p for p in batch if "scale-1" not in p.parts or "base" not in p.parts}
    assert all(path.stat().st_mtime_ns == before[path] for path in others)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--images", "base"], "NAME=FOLDER"),
        (["--images", "base=nowhere"], "nowhere"),
        (["--images", "floor=x"], "floor"),
        (["--images", "a=x", "a=y"], "taken"),
    ],
    ids=str,
)
def test_evaluate_refuses(arguments: list[str], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", *arguments, "--out", str(tmp_path / "evidence")]) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1
    assert named in told[0]
    assert not (tmp_path / "evidence").exists()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [([], "--run"), (["--run", "nowhere"], "nowhere"), (["--evidence", "nowhere"], "nowhere")],
    ids=str,
)
def test_report_refuses(arguments: list[str], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", *arguments, "--out", str(tmp_path / "page.html")]) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1
    assert named in told[0]
    assert not (tmp_path / "page.html").exists()


def test_a_full_disk_leaves_the_old_page(
    quickstart: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    page.write_text("old")

    def full(*_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert main(["report", "--run", str(quickstart / "runs" / "ddspo"), "--out", str(page)]) == 2
    assert "disk is full" in capsys.readouterr().err
    assert page.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]
