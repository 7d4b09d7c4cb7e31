"""`contrapose sample` guided by runs: flags, usual guidances, and what is one line and exit code 2."""

from __future__ import annotations

import json
from pathlib import Path

import aligned
import pytest
import yaml

from contrapose.backbones.families.table import load_backbone
from contrapose.cli.main import main
from contrapose.worlds.shapes.suite import ShapesJudge

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def runs(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder, backbone = tmp_path_factory.mktemp("runs"), load_backbone(tiny_model)
    return [aligned.write_run(backbone, "lora", seed, folder / str(seed)) for seed in (0, 1)]


def _sample(model: Path, folder: Path, *more: object) -> int:
    (folder / "prompts.txt").write_text("a red circle\n")
    where = ["--model", model, "--prompts", folder / "prompts.txt", "--out", folder / "out", "--device", "cpu"]
    return main([str(a) for a in ("sample", *where, "--steps", "1", "--num-images", "1", *more)])


@pytest.mark.parametrize(
    ("flags", "guidance"),
    [
        (["--positive", 0], {"name": "pgd", "scale": 1.0}),
        (
            ["--positive", 0, "--scale", "3", "--schedule", "linear"],
            {"name": "pgd", "scale": 3.0, "schedule": "linear"},
        ),
        (["--positive", 0, "--negative", 1, "--interval", "0.2", "0.8"], {"name": "cpgd", "interval": [0.2, 0.8]}),
        (["--negative", 1, "--guidance", "npo", "--rescale", "0.5"], {"name": "npo", "rescale": 0.5}),
        (["--positive", 0, "--negative", 1, "--guidance=chats", "--proxy", "0.3"], {"name": "chats", "proxy": 0.3}),
    ],
    ids=["pgd", "linear", "cpgd", "npo", "chats"],
)
def test_guided(
    tiny_model: Path, runs: list[Path], tmp_path: Path, flags: list[object], guidance: dict[str, object]
) -> None:
    """And again, which does nothing."""
    flags = [runs[flag] if isinstance(flag, int) else flag for flag in flags]
    assert _sample(tiny_model, tmp_path, *flags) == 0
    written = yaml.safe_load((tmp_path / "out/images.yaml").read_text())["guiding"]
    assert written["guidance"] == written["guidance"] | guidance
    [image] = (tmp_path / "out").glob("*/samples/*.png")
    before = image.stat().st_mtime_ns
    assert _sample(tiny_model, tmp_path, *flags) == 0
    assert image.stat().st_mtime_ns == before


def test_prompts_typed_in_place_of_a_file(tiny_model: Path, tmp_path: Path, capsys: Capture) -> None:
    words = ["sample", "--model", str(tiny_model), "--num-images", "1", "--steps", "1", "--device", "cpu"]
    out = ["--out", str(tmp_path / "out")]
    assert main([*words, "--prompts", "a cat", "a dog", *out]) == 0
    said = [json.loads(path.read_text())["prompt"] for path in sorted((tmp_path / "out").glob("*/metadata.jsonl"))]
    assert said == ["a cat", "a dog"]
    assert len(list((tmp_path / "out").glob("*/samples/0000.png"))) == 2
    assert main([*words, "--prompts", "a cat", *out]) == 2
    assert "another content of prompts" in capsys.readouterr().err
    assert main([*words, "--prompt", "a cat", *out]) == 2
    assert "--prompt is now --prompts" in capsys.readouterr().err


def test_the_best_of_several(tiny_model: Path, tmp_path: Path) -> None:
    assert _sample(tiny_model, tmp_path, "--best-of", "3", "--judges", "colourfulness") == 0
    choice = json.loads((tmp_path / "out/00000/samples/0000.json").read_text())
    assert choice["scores"].keys() == {"colourfulness"} and choice["seeds"] == [0, 1, 2]
    assert choice["seed"] == max(range(3), key=choice["scores"]["colourfulness"].__getitem__)
    written = yaml.safe_load((tmp_path / "out/judges.yaml").read_text())
    assert [judge["name"] for judge in written["judges"]] == ["colourfulness"]
    assert yaml.safe_load((tmp_path / "out/images.yaml").read_text())["best_of"] == 3


def test_the_best_of_several_in_the_shapes_world(tiny_model: Path, tmp_path: Path, capsys: Capture) -> None:
    """Its suite judges by what a prompt's line says, and refuses other prompts before anything is drawn."""
    assert main(["shapes", "prompts", str(tmp_path / "p.jsonl"), "--split", "test", "--per-tag", "1"]) == 0
    words = ["sample", "--model", str(tiny_model), "--num-images", "1", "--steps", "1", "--device", "cpu"]
    words += ["--best-of", "2", "--judges", "shapes", "colourfulness"]
    assert main([*words, "--prompts", str(tmp_path / "p.jsonl"), "--out", str(tmp_path / "out")]) == 0
    choice = json.loads((tmp_path / "out/00000/samples/0000.json").read_text())
    scores = choice["scores"]
    assert list(scores) == [*ShapesJudge.higher_is_better, "colourfulness"]
    # the first number that tells the two apart decides; of an artefact rate less is better
    first = next(name for name, (one, other) in scores.items() if one != other)
    better = max if ShapesJudge.higher_is_better[first] else min
    assert choice["seed"] == scores[first].index(better(scores[first]))
    assert main([*words, "--prompts", "a cat", "--out", str(tmp_path / "refused")]) == 2
    assert "is not of the shapes world" in capsys.readouterr().err
    assert not (tmp_path / "refused").exists()


def test_the_best_of_several_by_the_model_that_draws_them(tiny_model: Path, tmp_path: Path) -> None:
    judged = ["--judges", "self-confidence", "--judges.0.probes", "2", "--judges.0.probe-steps", "3"]
    assert _sample(tiny_model, tmp_path, "--best-of", "2", *judged) == 0
    choice = json.loads((tmp_path / "out/00000/samples/0000.json").read_text())
    confidence = choice["scores"]["self-confidence"]
    assert choice["seed"] == choice["seeds"][confidence.index(max(confidence))]


def test_negative_prompt_and_attention(tiny_model: Path, tmp_path: Path) -> None:
    assert (
        _sample(
            tiny_model,
            tmp_path,
            "--negative-prompt",
            "a star",
            "--nag-scale",
            "3",
            "--nag-tau",
            "2",
            "--nag-interval",
            "0.2",
            "1",
        )
        == 0
    )
    written = yaml.safe_load((tmp_path / "out/images.yaml").read_text())["guiding"]
    told = {
        "negative_prompt": "a star",
        "nag_scale": 3.0,
        "nag_tau": 2.0,
        "nag_alpha": 0.25,
        "nag_interval": [0.2, 1.0],
    }
    assert written == written | told


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--positive", "nowhere"], "nowhere: no such run"),
        (["--best-of", "4"], "best_of 4: nobody says which is the best; name one with --judges"),
        (["--judges", "colourfulness"], "judges: there is nothing to choose from; set --best-of"),
        (["--best-of", "0"], "best_of 0: "),
        (["--best-of", "2", "--judges", "taste"], "--judges taste: not known"),
        (["--positive", 0, "--scale", "nan"], "scale nan: "),
        (["--positive", 0, "--scale", "1e6"], "scale 1000000.0: "),
        (["--positive", 0, "--interval", "0.8", "0.2"], "interval 0.8 to 0.2: "),
        (["--positive", 0, "--guidance", "dpo"], "--guidance dpo: not known (choose from pgd, cpgd, npo, chats)"),
        (["--negative", 0], "guidance cpgd needs a positive run"),
        (["--positive", 0, "--negative", 0, "--guidance", "pgd"], "guidance pgd takes no negative run"),
        (["--positive", 0, "--guidance", "npo"], "guidance npo needs a negative run"),
        (["--negative", 0, "--guidance", "npo", "--guidance-scale", "1"], "--guidance-scale above 1"),
        (["--scale", "3"], "name one with --positive"),
        (["--nag-scale", "nan"], "nag_scale nan: "),
        (["--nag-tau", "2"], "nag_tau: does nothing by itself"),
        (["--negative-prompt", "a star", "--guidance-scale", "1"], "negative_prompt: nothing reads it"),
    ],
    ids=str,
)
def test_refused(
    tiny_model: Path, runs: list[Path], tmp_path: Path, capsys: Capture, flags: list[object], told: str
) -> None:
    assert _sample(tiny_model, tmp_path, *(runs[flag] if isinstance(flag, int) else flag for flag in flags)) == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("contrapose")]
    assert told in line
    assert not (tmp_path / "out").exists()


def test_a_setting_of_another_guidance(tiny_model: Path, runs: list[Path], tmp_path: Path, capsys: Capture) -> None:
    assert _sample(tiny_model, tmp_path, "--positive", runs[0], "--proxy", "0.5") == 2
    assert "--proxy" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
