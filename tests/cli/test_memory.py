"""Memory that runs out, at loading, in a step and while sampling: one line that names what would fit."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_vision
import torch

from contrapose.backbones.families import table
from contrapose.backbones.families.table import load_backbone
from contrapose.backbones.images import Autoencoder
from contrapose.backbones.sampler import Sampler
from contrapose.backbones.settings import Loading
from contrapose.cli.main import main
from contrapose.cli.memory import OutOfMemory, advised
from contrapose.estimate import advice
from contrapose.guiding.play import Play, Player, Wish
from contrapose.methods import DDSPO
from contrapose.runs.folder import RunFolder
from contrapose.train.loop import Trainer
from contrapose.train.settings import Optimisation, Run

ALIGN = ["--train-steps", "4", "--batch-size", "4", "--micro-batch", "4", "--save-every", "1"]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, prompts and pairs."""
    root = tmp_path_factory.mktemp("memory")
    tiny.save("sd", root / "model")
    (root / "prompts.txt").write_text("".join(f"a photo of {n} small cats\n" for n in range(6)))
    assert main(_draw(root, root / "pairs")) == 0
    return root


def _draw(work: Path, out: Path) -> list[str]:
    prompts = ["--prompts", str(work / "prompts.txt"), "--steps", "1", "--batch-size", "6"]
    return ["pairs", "draw", "--model", str(work / "model"), *prompts, "--out", str(out)]


def _align(work: Path, out: Path) -> list[str]:
    return ["align", "ddspo", "--model", str(work / "model"), "--pairs", str(work / "pairs"), *ALIGN, "--out", str(out)]


def _only_line(capsys: pytest.CaptureFixture[str]) -> str:
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("contrapose:")]
    return line


def _raise(*_: object, **__: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nGPU 0 has ...")


def test_in_a_step_it_names_what_would_fit_and_what_is_saved_goes_on(work, tmp_path, monkeypatch, capsys):
    take = Trainer._take

    def fail_at_third(self: Trainer, step: int, micro_batches: Any) -> object:
        return _raise() if step == 2 else take(self, step, micro_batches)

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_take", fail_at_third)
        assert main(_align(work, out)) == 2
    line = _only_line(capsys)
    assert "out of memory; --" in line and " GiB by 'contrapose estimate'" in line
    flags = line.split("out of memory; ")[1].split(" would take")[0].split()
    assert flags and list(RunFolder(out).steps) == [1, 2]
    kept = (out / "metrics.jsonl").read_text()
    assert main([*_align(work, out), *flags]) == 0
    assert (out / "metrics.jsonl").read_text().startswith(kept) and RunFolder(out).finished


def test_at_loading(work, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("contrapose.train.align.load_backbone", _raise)
    assert main(_align(work, tmp_path / "run")) == 2
    assert "out of memory; --" in _only_line(capsys)
    assert not (tmp_path / "run" / "run.yaml").exists()


def test_while_sampling(work, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Sampler, "generate", _raise)
    assert main(_draw(work, tmp_path / "pairs")) == 2
    assert "images at once instead of 12 would take about" in _only_line(capsys)
    sample = ["sample", "--model", str(work / "model"), "--prompts", str(work / "prompts.txt"), "--steps", "1"]
    assert main([*sample, "--out", str(tmp_path / "images")]) == 2
    assert "images at once instead of 16 would take about" in _only_line(capsys)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two captioned photographs."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(2):
        tiny_vision.noise_image(number, (32, 32)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"a photo of {number} small cats")
    return folder


FITTING = ["--resolution", "32", "--max-scale-up", "8"]


def test_while_images_are_encoded_or_decoded(work, photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Autoencoder, "encode", _raise)
    monkeypatch.setattr(Autoencoder, "decode", _raise)
    model = ["--model", str(work / "model")]
    others = tmp_path / "others"
    shutil.copytree(photos, others)
    tiny_vision.noise_image(7, (32, 32)).save(others / "0.png")
    tiny_vision.noise_image(8, (32, 32)).save(others / "1.png")
    sides = ["--winners", str(photos), "--losers", str(others)]
    assert main(["pairs", "import", *model, *sides, *FITTING, "--out", str(tmp_path / "pairs")]) == 2
    assert "images at once instead of 8 would take about" in _only_line(capsys)
    assert main(["pairs", "export", str(work / "pairs"), "--out", str(tmp_path / "pairs.parquet")]) == 2
    assert "images at once instead of 8 would take about" in _only_line(capsys)
    assert main(["pairs", "real", *model, "--photos", str(photos), *FITTING, "--out", str(tmp_path / "real")]) == 2
    assert "images at once instead of 4 would take about" in _only_line(capsys)


def test_while_images_are_judged(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("contrapose.worlds.evaluation.evaluate", _raise)
    line = ["evaluate", "--images", f"base={photos}", "--out", str(tmp_path / "evidence"), "--suite", "scores"]
    assert main([*line, "--judges", "colourfulness", "pickscore", "--features", "clip"]) == 2
    assert "take --judges.1.batch-size 8 --features.batch-size 16, or --device cpu" in _only_line(capsys)
    assert main([*line, "--judges", "colourfulness"]) == 2
    assert "take a smaller network to judge by, or --device cpu" in _only_line(capsys)


def test_on_the_page_of_play(work, monkeypatch):
    backbone = load_backbone(work / "model")
    at_once = advice.Images(str(work / "model"), "fp32", Loading())
    player = Player(Play(str(work / "model"), (work,), steps=1), backbone, lambda: advised(at_once.after))
    monkeypatch.setattr(Player, "_image", _raise)
    with pytest.raises(OutOfMemory, match="take smaller images or less precision"):
        player.draw(Wish("a cat", (work.name,), scale=0.0))


def test_a_card_that_is_too_small_for_an_image_is_told_of_before(work, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Sampler, "generate", _raise)
    monkeypatch.setattr(advice, "card_size", lambda *_: 0.5)
    assert main(_draw(work, tmp_path / "pairs")) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "one image may not fit the GPU's 0.5 GiB: about" in told and "out of memory; take a smaller --batch" in told
    monkeypatch.setattr(advice, "card_size", lambda *_: 80.0)
    assert main(_draw(work, tmp_path / "pairs")) == 2
    assert "may not fit" not in capsys.readouterr().err


def test_other_errors_come_out_as_they_are(work, tmp_path, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("ours")

    monkeypatch.setattr(table, "open_pipeline", fail)
    monkeypatch.setattr("contrapose.train.align.load_backbone", fail)
    with pytest.raises(RuntimeError, match="ours"):
        main(_align(work, tmp_path / "run"))


def test_a_card_that_is_too_small_is_told_of_before_loading(work, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(advice, "card_size", lambda *_: 0.5)
    monkeypatch.setattr("contrapose.train.align.load_backbone", _raise)
    assert main(_align(work, tmp_path / "run")) == 2
    assert "may not fit the GPU's 0.5 GiB by 'contrapose estimate'" in " ".join(capsys.readouterr().err.split())
    monkeypatch.setattr(advice, "card_size", lambda *_: 80.0)
    assert main(_align(work, tmp_path / "run")) == 2
    assert "may not fit" not in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
def test_advice_is_of_the_card_and_less_than_what_was_too_much():
    """Stable Diffusion 1.5 as its recipe has it, but for what the recipe says of memory."""
    run = Run("sd15", (), DDSPO(), lora_rank=64, optimisation=Optimisation(batch_size=8), precision="bf16")
    told = advice.after_training(run, 8.0)
    assert told.startswith("--gradient-checkpointing would take about 6.9 GiB of ") and "carries on" in told
    assert "--quantize" in advice.after_training(run, 2.5)
    assert "another --out" in advice.after_training(run, 2.5)
    assert "no setting takes less" in advice.after_training(run, 1.0)
    assert "--gradient-checkpointing" in str(advice.warning_before(run, 8.0))
    assert advice.warning_before(run, 50.0) is None
