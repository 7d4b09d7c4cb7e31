"""The precision that commands take where it is left open stands in the folder, which is carried on in it."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_vision
import yaml

from contrapose.cli.main import main


@pytest.fixture(scope="module")
def lines(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """A command line of each kind, without its --out."""
    root = tmp_path_factory.mktemp("precision")
    for folder, first in (("better", 0), ("worse", 5)):
        (root / folder).mkdir()
        for number in range(2):
            tiny_vision.noise_image(first + number, (24, 24)).save(root / folder / f"{number}.png")
            (root / folder / f"{number}.txt").write_text(f"a red circle {number}")
    model = ["--model", str(tiny_model)]
    better = str(root / "better")
    fitting = ["--resolution", "16", "--max-scale-up", "8"]
    return {
        "sample": ["sample", *model, "--prompts", "a red circle", "--num-images", "1", "--steps", "1"],
        "draw": ["pairs", "draw", *model, "--prompts", "a red circle, big", "--steps", "1"],
        "import": ["pairs", "import", *model, "--winners", better, "--losers", str(root / "worse"), *fitting],
        "real": ["pairs", "real", *model, "--photos", better, "--spoil", "degrade", *fitting],
    }


@pytest.mark.parametrize(
    ("command", "file", "section"),
    [
        ("sample", "images.yaml", ""),
        ("draw", "pairs.yaml", "draw"),
        ("import", "pairs.yaml", "import"),
        ("real", "real.yaml", ""),
    ],
)
def test_what_was_begun_in_half_precision_goes_on_in_it(
    lines: dict[str, list[str]], command: str, file: str, section: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = [*lines[command], "--out", str(tmp_path)]
    with monkeypatch.context() as patch:
        patch.setattr("contrapose.backbones.precision.usual_precision", lambda *_: "bf16")
        assert main(line) == 0

    def recorded() -> str:
        settings = yaml.safe_load((tmp_path / file).read_text())
        return (settings[section] if section else settings)["precision"]

    assert recorded() == "bf16"
    assert main(line) == 0, "on this CPU the usual one is fp32"
    assert recorded() == "bf16"
    assert main([*line, "--precision", "fp32"]) == 2
